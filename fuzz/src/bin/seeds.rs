//! Writes the seeds of the corpora, made by the real encoders: what an honest peer, client or kernel
//! sends. `cargo run --release --bin seeds` in this folder, after a change of a format.
#![forbid(unsafe_code)]

use memory::PageRange;
use motion::handover::{Decision, Particulars, Record, Role, Token};
use state::{Bundle, Code, Refusal};
use std::error::Error;
use std::path::Path;
use uuid::Uuid;
use vmm::{SavedBoot, SavedClock, SavedCpuid, SavedMachine, SavedSchemas, SavedVcpu};
use wire::{
    Content, Describe, Failed, Hello, MAGIC, Message, PagesHeader, PassEnd, Ready, Role as For,
    Run, Running, State, Verdict, Welcome,
};

type Seeds = Vec<(&'static str, Vec<u8>)>;

const TOKEN: [u8; 16] = [7; 16];
const NAME: [u8; 16] = [5; 16];

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("wire", wire()),
        ("destination", destination()),
        ("source", source()),
        ("handshake", handshake()),
        ("qmp", qmp()),
        ("elf", vec![("kernel", elf())]),
        ("bzimage", vec![("kernel", bzimage())]),
        ("record", records()?),
        ("snapshot", snapshots()),
    ] {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

/// What becomes of a sound file: whether checksums are mended and RAM is in a memory file (1 and 2), then
/// how, in which page and where.
fn snapshots() -> Seeds {
    vec![
        ("sound", vec![0]),
        ("byte", vec![0, 6, 4, 10, 0, 1]),
        ("cut", vec![0, 1, 0, 0, 0, 0]),
        ("kind", vec![1, 6, 0, 40, 0, 2]),
        ("regions", vec![1, 2, 0, 0x10, 4, 3]),
        ("ram", vec![1, 2, 0, 104, 0, 8]),
        ("section", vec![1, 2, 2, 24, 0, 3, 2, 2, 32, 0, 10]),
        ("presence", vec![1, 2, 3, 8, 0, 0]),
        ("apart", vec![2]),
        ("apart-byte", vec![2, 6, 5, 20, 0, 1]),
        ("apart-cut", vec![2, 1, 0, 0, 0, 0]),
        ("apart-path", vec![3, 5, 5, 24, 0, 2]),
        ("apart-generation", vec![3, 2, 5, 16, 0, 11]),
        ("apart-section", vec![3, 2, 2, 88, 0, 3]),
        ("claim", vec![0, 0, 14, 0, 0, 8, 0, b'W', b'H', b'I', b'M', b'C', b'L', b'A', b'I']),
    ]
}

fn describe() -> Message {
    let description = Bundle::new().encode();
    Message::Describe(Describe { description, connections: 2, check_only: false, token: TOKEN })
}

fn state(data_pages: u64, zero_pages: u64) -> Message {
    let state = Bundle::new().encode();
    Message::State(State { state, run: true, data_pages, zero_pages })
}

fn ready() -> Message {
    Message::Ready(Ready { token: TOKEN, restore: 200_000 })
}

fn running() -> Message {
    Message::Running(Running { token: TOKEN, start: 30_000, held: 45_000 })
}

fn pass_end(pass: u32, data_pages: u64, zero_pages: u64) -> Message {
    Message::PassEnd(PassEnd { pass, data_pages, zero_pages })
}

/// One page with contents and two of zeroes.
fn pages(pass: u32) -> Vec<u8> {
    let run = |start, count, content| Run { range: PageRange::new(start, count), content };
    let header =
        PagesHeader { pass, runs: vec![run(1, 1, Content::Data), run(8, 2, Content::Zero)] };
    let mut bytes = Vec::new();
    header.encode_into(&mut bytes);
    bytes.resize(bytes.len() + 4096, 0xa5);
    bytes
}

fn refused() -> Message {
    let refusal = Refusal::new(Code::IncompatibleCpu, "cpu", "it lacks avx512f", "use another");
    Message::Refused(vec![refusal])
}

fn wire() -> Seeds {
    let messages = [
        Message::Hello(Hello::new([3; 16], NAME, For::Data, 1)),
        Message::Welcome(Welcome { version: 1, features: wire::Features(0), wall_clock: 1 << 60 }),
        refused(),
        describe(),
        Message::Accepted { save: 100_000, restore: 200_000 },
        pass_end(1, 1, 2),
        Message::PassDone(1),
        state(1, 2),
        ready(),
        Message::Commit(TOKEN),
        running(),
        Message::Abort(TOKEN),
        Message::Query(TOKEN),
        Message::Answer(TOKEN, Verdict::Refused),
        Message::Ping(9),
        Message::Pong(9, 4096),
        Message::Failed(Failed { code: Code::PeerFailed, why: "no".to_owned() }),
    ];
    // No pages are expected; pieces of 256 bytes.
    let mut all = vec![0, 255];
    all.extend(messages.iter().flat_map(Message::encode));
    // A guest of 129 pages; pieces of 100 bytes.
    let mut with_pages = vec![1, 36, 129, 99];
    with_pages.extend(pages(1));
    with_pages.extend(Message::Ping(1).encode());
    vec![("messages", all), ("pages", with_pages)]
}

/// Steps of a conversation, as the targets read them.
struct Steps(Vec<u8>);

impl Steps {
    fn then(mut self, step: &[u8]) -> Self {
        self.0.extend_from_slice(step);
        self
    }

    /// Bytes that come over the control connection.
    fn control(self, bytes: &[u8]) -> Self {
        self.then(&[0]).counted(bytes)
    }

    fn says(self, message: &Message) -> Self {
        self.control(&message.encode())
    }

    /// Bytes that come over a data connection.
    fn data(self, connection: u8, bytes: &[u8]) -> Self {
        self.then(&[8, connection, 0]).counted(bytes)
    }

    /// The pages of [`pages`] over a data connection, in the targets' own short form.
    fn pages(self, connection: u8, pass: u8) -> Self {
        let one = [1, 1, 0, 0, 0];
        let zeroes = [1, 8, 0, 1, 1];
        let choices = [&[8, connection, 2, 36, pass, 2], &one[..], &zeroes, &[0xa5]];
        self.then(&choices.concat())
    }

    fn counted(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("a seed is short");
        self.then(&length.to_le_bytes()).then(bytes)
    }
}

fn destination() -> Seeds {
    // Options; then a source greets, describes, and makes two data connections.
    let begun = || {
        Steps(vec![0, 0, 0])
            .then(&[7, 0, 0, 0, 0, 0])
            .says(&describe())
            .then(&[7, 2, 0, 0, 0, 0])
            .then(&[7, 2, 0, 0, 1, 0])
            .says(&Message::Ping(1))
    };
    let sent = || {
        begun()
            .pages(0, 1)
            .data(0, &pass_end(1, 1, 2).encode())
            .data(1, &pass_end(1, 0, 0).encode())
            .control(&pages(2))
            .says(&pass_end(2, 1, 2))
            .says(&state(2, 4))
    };
    let held = sent().then(&[12]).then(&[10, 0, 0, 4]).then(&[10, 0, 0, 3]);
    vec![
        ("move", sent().says(&Message::Commit(TOKEN)).says(&Message::Abort(TOKEN)).0),
        ("held", held.0),
        ("resolved", sent().then(&[12]).then(&[14, 4]).0),
        ("given-up", begun().pages(1, 1).then(&[13]).0),
    ]
}

fn source() -> Seeds {
    // Options; then the destination welcomes, accepts, and takes the first pass.
    let begun = |options: [u8; 8]| {
        Steps(options.to_vec())
            .then(&[7, 0, 0, 100, 0])
            .says(&Message::Accepted { save: 100_000, restore: 200_000 })
            .then(&[8])
            .then(&[9])
            .says(&Message::PassDone(1))
    };
    let plain = [0; 8];
    let unlimited = [2, 0, 0, 0, 0, 0, 0, 0];
    let moved = begun(plain).says(&Message::PassDone(2)).says(&ready()).says(&running());
    let asked = begun(unlimited).says(&ready()).then(&[12, 1]).then(&[10, 0, 6]);
    let resolved = begun(unlimited).says(&ready()).then(&[12, 1]).then(&[13, 5, 1, 1]);
    vec![
        ("move", moved.0),
        ("asked", asked.0),
        ("resolved", resolved.0),
        ("refused", Steps(plain.to_vec()).then(&[7, 0, 0, 100, 0]).says(&refused()).0),
        ("cancelled", begun([0, 0, 0, 0, 0, 0, 0, 1]).0),
    ]
}

fn handshake() -> Seeds {
    let greeting = |message: &Message| [&MAGIC[..], &message.encode()].concat();
    let hello = greeting(&Message::Hello(Hello::new([3; 16], NAME, For::Control, 0)));
    let mut described = Bundle::new();
    let machine = SavedMachine {
        name: "guest".to_owned(),
        uuid: NAME,
        memory: 64 << 20,
        backing: "off".to_owned(),
        vcpus: 1,
        tsc_khz: 2_000_000,
        xsave_size: 4096,
        msrs: vec![(0x10, 0), (0x174, 8)],
    };
    described.put("", &machine);
    described.put("cpu0", &SavedCpuid { leaves: vec![[0, 0, 0, 13, 1, 2, 3]] });
    let uart = || "whimbrel.uart16550".to_owned();
    let in_use = Some(vec![(uart(), "fifo".to_owned())]);
    described.put("", &SavedSchemas { schemas: vec![(uart(), 2, 2)], in_use });
    let boot = SavedBoot {
        kernel_name: "vmlinuz".to_owned(),
        kernel: vec![1, 2, 3],
        initrd: None,
        cmdline: "quiet".to_owned(),
    };
    described.put("", &boot);
    let mut saved = Bundle::new();
    let cpu = SavedVcpu {
        mp_state: 0,
        regs: vec![1; 8],
        sregs: vec![2; 8],
        xsave: vec![3; 8],
        xcrs: vec![(0, 7)],
        debug_regs: vec![4; 8],
        lapic: vec![5; 8],
        events: vec![6; 8],
        msrs: Vec::new(),
        tsc: 1 << 40,
        tsc_read_at: 1 << 41,
        tsc_offset: None,
        nested: None,
    };
    saved.put("cpu0", &cpu);
    let clock = SavedClock {
        kvmclock: 1 << 40,
        realtime: Some(1 << 60),
        host_tsc: Some(1 << 50),
        wall_clock: 1 << 60,
        host_khz: 2_000_000,
        boot_id: Some("b".to_owned()),
    };
    saved.put("", &clock);
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        ("hello", of(0, &hello)),
        ("refused", of(1, &greeting(&refused()))),
        ("described", of(2, &described.encode())),
        ("saved", of(3, &saved.encode())),
    ]
}

fn qmp() -> Seeds {
    let lines = |lines: &[&str]| [&[63], lines.join("\r\n").as_bytes()].concat();
    vec![
        (
            "migrate",
            lines(&[
                r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": 1}"#,
                r#"{"execute": "migrate", "arguments": {"uri": "tcp:[::1]:4444"}}"#,
                r#"{"execute": "migrate", "arguments": {"channels": [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "h", "port": "1"}}]}}"#,
                r#"{"exec-oob": "query-migrate", "id": {"a": [null]}}"#,
                r#"{"execute": "migrate-incoming", "arguments": {"uri": "unix:/s", "exit-on-error": false}}"#,
                "",
            ]),
        ),
        (
            "settings",
            lines(&[
                r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "multifd", "state": true}, {"capability": "pause-before-switchover", "state": true}]}}"#,
                r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1000000, "downtime-limit": 300, "multifd-channels": 4}}"#,
                r#"{"execute": "x-whimbrel-handover-resolve", "arguments": {"token": "07070707070707070707070707070707", "owner": "here", "fenced": true}}"#,
                r#"{"execute": "getfd", "arguments": {"fdname": "a"}}"#,
                r#"{"execute": "stop"#,
            ]),
        ),
    ]
}

/// An ELF file with a segment of code at 1 MiB, one of zeroes, and a PVH note.
fn elf() -> Vec<u8> {
    let entry = 0x10_0000u32;
    let words32 = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let words64 = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let note = [words32(&[4, 4, 18]), b"Xen\0".to_vec(), words32(&[entry])].concat();
    let header = |kind, offset, address, file_size, memory_size| {
        let words = words64(&[offset, address, address, file_size, memory_size, 4]);
        [words32(&[kind, 7]), words].concat()
    };
    let (code, notes) = (64 + 3 * 56, 64 + 3 * 56 + 16);
    let identity = [b"\x7fELF\x02\x01\x01".to_vec(), vec![0; 9], vec![2, 0, 62, 0, 1, 0, 0, 0]];
    let table = [words64(&[entry.into(), 64, 0]), vec![0, 0, 0, 0, 64, 0, 56, 0, 3, 0]];
    [
        identity.concat(),
        table.concat(),
        vec![0; 6],
        header(1, code, entry.into(), 16, 4096),
        header(1, code, 0x20_0000, 0, 4096),
        header(4, notes, 0, note.len() as u64, note.len() as u64),
        vec![0x90; 16],
        note,
    ]
    .concat()
}

/// A bzImage by protocol 2.15 with a kernel of 1 KiB (Linux `Documentation/arch/x86/boot.rst`).
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 2048];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &64u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x20_0000u32.to_le_bytes());
    file
}

fn records() -> Result<Seeds, Box<dyn Error>> {
    let uuid = Uuid::from_bytes(NAME);
    let record = |role, decision| -> Result<Vec<u8>, Box<dyn Error>> {
        let peer = "tcp:192.0.2.1:4444";
        let particulars = Particulars::new(Token(TOKEN), uuid, "50 %\n", peer, 1_700_000_000_000)?;
        let record = Record { role, decision, particulars };
        Ok(Steps(Vec::new()).counted(&record.encode()).then(&[2, 0, 4, 2, 0, 1, 0, 1, 1]).0)
    };
    Ok(vec![
        ("open", record(Role::Destination, Decision::Open)?),
        ("committed", record(Role::Source, Decision::Committed)?),
        ("refused", record(Role::Destination, Decision::Refused)?),
    ])
}
