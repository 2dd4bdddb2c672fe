//! Guests that go on from files, in real processes: once, whole, and verified; or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use snapshot::{Claim, Origin, Reader};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use support::{Host, Machine, PATIENCE, huge_pages, transparent_huge_pages, wait};

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];

fn path(host: &Host, name: &str) -> String {
    host.folder().join(name).to_str().unwrap().to_owned()
}

fn open(file: &str) -> Reader {
    Reader::open(Origin::Path { path: file.into(), offset: 0 }, false).unwrap()
}

fn claim(file: &str) -> Option<Claim> {
    open(file).claim().cloned()
}

/// Boots a guest that checks itself, and saves it.
fn saved(host: &Host, name: &str, shape: &[&str]) -> String {
    let mut machine = host.selfcheck(name, shape);
    save(host, &mut machine, &format!("{name}.save"))
}

fn save(host: &Host, machine: &mut Machine, file: &str) -> String {
    let file = path(host, file);
    host.ok(&["save", &machine.name, &file, "--force"]);
    assert_eq!(machine.wait_for_end(), Some(0));
    file
}

/// A snapshot of a guest, which has ended since.
fn copied(host: &Host, name: &str) -> String {
    let mut machine = host.selfcheck(name, &SHAPE);
    let file = path(host, &format!("{name}.snapshot"));
    host.ok(&["snapshot", name, &file, "--max-blackout", "unlimited"]);
    machine.kill();
    file
}

/// All of its RAM has come.
fn wait_until_full(host: &Host, name: &str) {
    wait("RAM to be full", || {
        let restore = &report(host, name)["restore"];
        (restore["how"] == "eager" || restore["fill_ns"].as_u64() > Some(0)).then_some(())
    });
}

/// One bit of a file is wrong.
struct Damage {
    file: File,
    at: u64,
    byte: u8,
    /// Where the page lies that it is in.
    place: u64,
}

impl Damage {
    fn last_page_of(path: &str) -> Self {
        let reader = open(path);
        let place = reader.place_of(reader.present().runs().last().unwrap().start);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (mut byte, at) = ([0], place + 99);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        Self { file, at, byte: byte[0], place }
    }

    fn mend(&self) {
        self.file.write_all_at(&[self.byte], self.at).unwrap();
    }
}

fn report(host: &Host, name: &str) -> Value {
    host.motion(name)["x-whimbrel-report"].clone()
}

#[test]
fn a_saved_guest_goes_on_whole_however_many_vcpus_it_has() {
    for (cpus, how) in ["1", "2", "8"].into_iter().flat_map(|c| [(c, "--eager"), (c, "--lazy")]) {
        let host = Host::new();
        let shape = ["--memory", "128M", "--cpus", cpus, "--cmdline", "ws=48M rate=5000"];
        let file = saved(&host, "a", &shape);
        let machine = host.restore("a", &file, &[how]);
        machine.wait_for("CLOCK", |_| true);
        machine.check_all();
        wait_until_full(&host, "a");
        let report = report(&host, "a");
        assert_eq!(report["status"], "completed", "{report:#}");
        let restore = &report["restore"];
        assert_eq!((&restore["kind"], &restore["claims"]), (&json!("save"), &json!(true)));
        assert_eq!(restore["how"], how[2..]);
        assert!(restore["first_instruction_ns"].as_u64() > restore["claim_ns"].as_u64());
        assert_eq!(restore["verified_pages"], open(&file).present().count());
    }
}

#[test]
fn a_guest_goes_on_between_all_kinds_of_pages() {
    assert!(huge_pages(128), "no huge pages are to be had for this test");
    assert!(transparent_huge_pages(), "shared memory may have no transparent huge pages here");
    let host = Host::new();
    let kinds = ["off", "thp", "2M"];
    for from in kinds {
        let shape = ["--memory", "64M", "--hugepages", from, "--cmdline", "ws=16M rate=5000"];
        let mut machine = host.selfcheck("a", &shape);
        for to in kinds {
            let file = save(&host, &mut machine, "a.save");
            machine = host.restore("a", &file, &["--hugepages", to]);
            machine.check_all();
            // Back to where the next one begins.
            let file = save(&host, &mut machine, "a.save");
            machine = host.restore("a", &file, &["--hugepages", from]);
        }
        machine.check_all();
    }
}

#[test]
fn a_guest_with_more_ram_than_lies_below_4_gib_goes_on() {
    let host = Host::new();
    let shape = ["--memory", "5G", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];
    let file = saved(&host, "a", &shape);
    let machine = host.restore("a", &file, &[]);
    machine.check_all();
    // What it never touched was neither saved nor read.
    let memory = &host.view("a").unwrap()["memory"];
    assert!(memory["touched"].as_u64().unwrap() < 256 << 20, "{memory}");
}

#[test]
fn twenty_saves_and_restores_lose_nothing() {
    let host = Host::new();
    let mut machine = host.selfcheck("a", &SHAPE);
    for _ in 0..20 {
        let file = save(&host, &mut machine, "a.save");
        machine = host.restore("a", &file, &[]);
        machine.check_all();
    }
}

#[test]
fn a_saved_guest_goes_on_once_and_who_asks_again_hears_where() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let mut machine = host.restore("a", &file, &[]);
    let token = report(&host, "a")["token"].as_str().unwrap().to_owned();
    let said = host.fails(3, &["restore", &file, "--name", "b", "--console", "off"]);
    for part in ["continued on host", "ago", &token, "--clone", "--reclaim"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(host.state("b"), "gone");
    machine.check_all();

    // A copy is another machine, and may run beside it.
    let copy = host.restore("copy", &file, &["--clone"]);
    copy.check_all();
    let uuid = |name: &str| host.view(name).unwrap()["uuid"].clone();
    assert_ne!(uuid("copy"), uuid("a"));
    assert_eq!(report(&host, "copy")["restore"]["claims"], false);

    // And whoever knows that the guest is gone takes it back to where it was.
    machine.kill();
    let again = host.restore("again", &file, &["--reclaim"]);
    again.check_all();
    let token = claim(&file).unwrap().token;
    let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report(&host, "again")["token"], hex);
}

#[test]
fn a_snapshot_is_restored_as_often_as_one_likes() {
    let host = Host::new();
    let file = copied(&host, "a");
    let copies: Vec<_> =
        ["b", "c", "d"].iter().map(|name| host.restore(name, &file, &["--clone"])).collect();
    copies.iter().for_each(Machine::check_all);
    assert_eq!(claim(&file), None);
    // Without a name of its own each gets one that is free.
    let answer = host.ok(&["restore", &file, "--clone", "--detach", "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["name"], "a");
    let said = host.ok(&["restore", &file, "--clone", "--detach"]);
    assert!(said.contains("`a-2` runs"), "{said}");
    assert_eq!(host.state("a-2"), "running");
    host.ok(&["kill", "a"]);
    host.ok(&["kill", "a-2"]);
}

#[test]
fn a_guest_that_is_to_stay_paused_is_claimed_when_it_is_resumed() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let mut first = host.restore("a", &file, &["--paused"]);
    assert_eq!(claim(&file), None);
    assert!(report(&host, "a")["restore"]["claim_ns"].is_null());
    let said = host.ok(&["status", "a"]);
    assert!(said.contains("not yet") && said.contains("resumed"), "{said}");
    // It may not leave from here as long as it is nobody's.
    let (_destination, to) = host.incoming("elsewhere", &[]);
    host.fails(1, &["migrate", "a", &to]);
    // A process that is killed before it claimed leaves the file as good as it was.
    first.kill();
    let second = host.restore("b", &file, &["--paused"]);
    host.ok(&["resume", "b"]);
    assert!(claim(&file).is_some());
    second.check_all();
    assert!(report(&host, "b")["restore"]["first_instruction_ns"].is_u64());
}

#[test]
fn a_page_that_was_changed_keeps_the_guest_from_running() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let damage = Damage::last_page_of(&file);
    let eagerly = ["restore", &file, "--name", "b", "--eager"];
    let said = host.fails(1, &[&eagerly[..], &["--console", "off"]].concat());
    assert!(said.contains("damaged") && said.contains(&damage.place.to_string()), "{said}");
    let said = host.fails(1, &[&eagerly[..], &["--detach", "--json"]].concat());
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["error"]["code"], "snapshot-corrupt", "{said}");
    assert_eq!((host.state("b").as_str(), claim(&file)), ("gone", None));
    damage.mend();
    host.restore("b", &file, &["--eager"]).check_all();
}

#[test]
fn a_page_that_was_changed_stops_a_guest_that_runs_until_it_can_be_had() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let damage = Damage::last_page_of(&file);
    let mut machine = host.begin_restore("b", &file, &["--lazy"]);
    // It depends on when the page is come to.
    let runs = wait("the damage to be found", || match host.state("b").as_str() {
        "io-error" => Some(true),
        _ => machine.has_ended().then_some(false),
    });
    let said = if runs { host.ok(&["status", "b"]) } else { machine.log() };
    assert!(said.contains("damaged") && said.contains(&damage.place.to_string()), "{said}");
    if runs {
        damage.mend();
        host.ok(&["resume", "b"]);
        host.wait_for_state("b", "running");
    } else {
        assert_eq!(claim(&file), None, "what never ran was not claimed");
        damage.mend();
        machine = host.restore("b", &file, &["--lazy"]);
    }
    machine.check_all();
    wait_until_full(&host, "b");
}

#[test]
fn a_file_that_is_removed_when_all_is_in_is_not_missed() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let machine = host.restore("a", &file, &["--lazy"]);
    wait_until_full(&host, "a");
    // Nothing of it is held, so that its space is free.
    wait("the file to be let go", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap();
        let holds = |fd: std::fs::DirEntry| {
            std::fs::read_link(fd.path()).is_ok_and(|path| path == std::path::Path::new(&file))
        };
        (!open.map_while(Result::ok).any(holds)).then_some(())
    });
    std::fs::remove_file(&file).unwrap();
    machine.check_all();
}

#[test]
fn what_is_no_complete_snapshot_is_refused_before_anything_is_built() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let whole = std::fs::read(&file).unwrap();
    let cut = path(&host, "cut");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let nothing = path(&host, "nothing");
    std::fs::write(&nothing, vec![7; 1 << 20]).unwrap();
    for (file, word) in [(&cut, "cut off"), (&nothing, "not a snapshot")] {
        let said = host.fails(3, &["restore", file, "--name", "b", "--console", "off"]);
        assert!(said.contains(word), "{said}");
    }
    let said = host.fails(1, &["restore", &path(&host, "none"), "--console", "off"]);
    assert!(said.contains("none"), "{said}");
    assert!(host.machines().is_empty());
}

#[test]
fn a_machine_that_waits_takes_a_guest_out_of_a_file() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    // Somebody else's header comes first.
    let behind = path(&host, "behind");
    let whole = [vec![b'#'; 8192], std::fs::read(&file).unwrap()].concat();
    std::fs::write(&behind, whole).unwrap();
    let machine = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    let on = json!({"capabilities": [{"capability": "mapped-ram", "state": true}]});
    host.ask("b", "migrate-set-capabilities", on).unwrap();
    let uri = format!("file:{behind},offset=8192");
    // One that is refused changes nothing.
    let wrong = json!({"uri": format!("file:{behind}"), "exit-on-error": false});
    assert!(host.ask("b", "migrate-incoming", wrong).is_err());
    host.ask("b", "migrate-incoming", json!({ "uri": uri })).unwrap();
    host.wait_for_state("b", "running");
    machine.check_all();
    let error = host.ask("b", "migrate-incoming", json!({ "uri": uri })).unwrap_err();
    assert!(error.to_string().contains("guest already"), "{error}");
}

#[test]
fn a_restored_guest_moves_and_is_saved_like_any_other() {
    let host = Host::new();
    let file = saved(&host, "a", &SHAPE);
    let _restored = host.restore("b", &file, &[]);
    let (mut destination, to) = host.incoming("c", &[]);
    let report = host.migrate("b", &to, &["--max-blackout", "unlimited"]);
    assert_eq!(report["status"], "completed", "{report:#}");
    destination.check_all();
    let file = save(&host, &mut destination, "c.save");
    host.restore("d", &file, &[]).check_all();
}

#[test]
fn copies_share_a_mapped_file_and_each_goes_its_own_way() {
    let host = Host::new();
    let file = copied(&host, "golden");
    let names = ["a", "b", "c"];
    let copies: Vec<_> =
        names.iter().map(|name| host.restore(name, &file, &["--mmap", "--clone"])).collect();
    for (name, copy) in names.iter().zip(&copies) {
        copy.check_all();
        let restore = report(&host, name)["restore"].clone();
        assert_eq!(restore["how"], "mmap");
        assert_eq!(restore["verified_pages"], open(&file).present().count());
    }
    // What they write is in none of the others, and not in the file.
    host.ok(&["inspect", &file, "--verify"]);
    // One can be moved, saved and reset like any other.
    let (there, address) = host.incoming("there", &[]);
    let moved = host.migrate("a", &address, &[]);
    assert_eq!(moved["status"], "completed", "{moved:#}");
    there.check_all();
    let mut copies = copies.into_iter().skip(1);
    let mut saved = copies.next().unwrap();
    let after = save(&host, &mut saved, "b.save");
    host.restore("b2", &after, &[]).check_all();
    let reset = copies.next().unwrap();
    let boots = reset.lines().iter().filter(|line| line.contains("HELLO")).count();
    host.qmp("c", "system_reset", "{}");
    wait("another boot", || {
        (reset.lines().iter().filter(|line| line.contains("HELLO")).count() > boots).then_some(())
    });
    reset.check_all();
}

#[test]
fn a_mapped_file_that_is_cut_short_stops_the_guest_for_good() {
    let host = Host::new();
    let file = copied(&host, "golden");
    let length = std::fs::metadata(&file).unwrap().len();
    let machine = host.restore("a", &file, &["--mmap", "--no-verify"]);
    machine.wait_for("CLOCK", |_| true);
    let handle = File::options().write(true).open(&file).unwrap();
    handle.set_len(4 << 20).unwrap();
    // Where the guest has it read in full, it stops at a page that it has not written yet; an access
    // that KVM makes for the guest ends it.
    machine.type_byte(b'?');
    let stopped = || {
        wait("the guest to stop", || match host.state("a").as_str() {
            "io-error" | "internal-error" => Some(()),
            "running" => None,
            other => panic!("the guest is `{other}`"),
        });
        let reason = host.view("a").unwrap()["reason"].clone();
        assert!(reason.as_str().is_some_and(|why| why.contains("cut short")), "{reason}");
    };
    stopped();
    handle.set_len(length).unwrap();
    host.qmp("a", "cont", "{}");
    stopped();
    let refused = host.fails(1, &["save", "a", &path(&host, "a.save")]);
    let refused: Vec<_> = refused.split_whitespace().collect();
    assert!(refused.join(" ").contains("golden.snapshot was cut short"), "{refused:?}");
    host.qmp("a", "quit", "{}");
}

/// Where no userfaultfd can be had, unless by descriptor 9.
const NO_USERFAULTFD: &str = r#"
exec 9<>/dev/userfaultfd
mount -t tmpfs none /dev
mknod /dev/kvm c 10 232
mknod /dev/null c 1 3
exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$@"
"#;

#[test]
fn where_no_userfaultfd_can_be_had_ram_is_read_first_unless_one_is_handed_over() {
    let allowed = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    assert_eq!(allowed.trim(), "0", "this test needs a host that does not give it to everybody");
    let host = Host::new();
    let file = copied(&host, "a");
    let restore = |more: &[&str]| {
        let all =
            [&["restore", &file, "--name", "b", "--clone", "--console", "off"], more].concat();
        let output = host.within(NO_USERFAULTFD, &all).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = restore(&["--lazy"]);
    assert_eq!(status, Some(1), "{said}");
    for advice in ["/dev/userfaultfd", "CAP_SYS_PTRACE", "--userfault-fd"] {
        assert!(said.contains(advice), "{advice}: {said}");
    }
    assert_eq!(host.state("b"), "gone");
    // What was not asked for is done without, and it is said.
    let (status, said) = restore(&["--detach"]);
    assert_eq!(status, Some(0), "{said}");
    let about = said.lines().filter(|line| line.contains("userfaultfd")).collect::<Vec<_>>();
    let [line] = about[..] else { panic!("it is said in one line: {said}") };
    assert!(line.contains("before the guest runs") && line.contains("--userfault-fd"), "{said}");
    assert_eq!(report(&host, "b")["restore"]["how"], "eager");
    let snapshot = ["snapshot", "b", &path(&host, "b.snap"), "--at", "start"];
    let snapshot = [&snapshot[..], &["--max-blackout", "unlimited"]].concat();
    let said = host.fails(3, &snapshot);
    assert!(said.contains("no userfaultfd can be had"), "{said}");
    host.ok(&["kill", "b"]);
    wait("it to end", || (host.state("b") == "gone").then_some(()));
    // Handed over it serves for both.
    let (status, said) = restore(&["--lazy", "--userfault-fd", "9", "--detach"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(report(&host, "b")["restore"]["how"], "lazy");
    wait_until_full(&host, "b");
    host.ok(&snapshot);
    // It goes along to the process that takes the machine over, and to the program that this becomes.
    for mode in ["transfer", "exec"] {
        host.ok(&["update", "b", "--mode", mode, "--max-blackout", "unlimited"]);
        host.ok(&[&snapshot[..], &["--force"]].concat());
    }
    host.ok(&["kill", "b"]);
    wait("it to end", || (host.state("b") == "gone").then_some(()));
    // By QMP, too; and what is no such device is refused.
    let waits = ["run", "--name", "b", "--incoming", "defer", "--console", "off", "--detach"];
    assert!(host.within(NO_USERFAULTFD, &waits).output().unwrap().status.success());
    let mut client = qmp::Client::connect(&host.folder().join("b.sock")).unwrap();
    set_postcopy(&host, "b");
    let mut incoming = json!({"uri": format!("file:{file}"), "exit-on-error": false});
    let told = |client: &mut qmp::Client, incoming: &Value| {
        client.execute("migrate-incoming", Some(incoming.clone()), Some(PATIENCE))
    };
    let error = told(&mut client, &incoming).unwrap_err();
    assert!(error.to_string().contains("no userfaultfd can be had"), "{error}");
    incoming["x-whimbrel-userfault-fd"] = json!("device");
    for (device, is_it) in [("/dev/zero", false), ("/dev/userfaultfd", true)] {
        let device = File::options().read(true).write(true).open(device).unwrap();
        client.pass_descriptor("device", device.as_fd(), Some(PATIENCE)).unwrap();
        assert_eq!(told(&mut client, &incoming).is_ok(), is_it);
    }
    host.wait_for_state("b", "running");
    assert_eq!(report(&host, "b")["restore"]["how"], "lazy");
    wait_until_full(&host, "b");
    host.ok(&["kill", "b"]);
}

fn set_postcopy(host: &Host, name: &str) {
    let on = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
    host.ask(name, "migrate-set-capabilities", on).unwrap();
}

/// What the guest saw of KVM's clock, at first here or at last.
fn clock(line: &str) -> u64 {
    let word = line.split(' ').find_map(|word| word.strip_prefix("kvm=")).unwrap();
    word.parse().unwrap()
}

#[test]
fn what_is_asked_over_qmp_is_what_is_done() {
    let host = Host::new();
    let mut machine = host.selfcheck("a", &SHAPE);
    let line = machine.wait_for("CLOCK", |_| true);
    let then = clock(&line);
    let uuid = |name: &str| host.view(name).unwrap()["uuid"].clone();
    let original = uuid("a");
    let file = save(&host, &mut machine, "a.save");
    let saved = Instant::now();
    let pages = open(&file).present().count();
    let waiting = |name: &str| {
        let machine = host.start(name, &["--incoming", "defer"]);
        host.wait_for_state(name, "inmigrate");
        machine
    };
    let told = |name: &str, arguments: Value| {
        let mut arguments = arguments;
        arguments["uri"] = json!(format!("file:{file}"));
        host.ask(name, "migrate-incoming", arguments)
    };

    // All of it before it runs, unless said otherwise.
    let copy = waiting("copy");
    told("copy", json!({"x-whimbrel-clone": true})).unwrap();
    host.wait_for_state("copy", "running");
    copy.check_all();
    let restore = report(&host, "copy")["restore"].clone();
    assert_eq!((&restore["how"], &restore["claims"]), (&json!("eager"), &json!(false)));
    assert_ne!(uuid("copy"), original);
    drop(copy);

    let lazy = waiting("lazy");
    set_postcopy(&host, "lazy");
    told("lazy", json!({"x-whimbrel-clone": true, "x-whimbrel-clock": "realtime"})).unwrap();
    let away = u64::try_from(saved.elapsed().as_nanos()).unwrap();
    let line = lazy.wait_for("CLOCK", |_| true);
    assert!(clock(&line) >= then + away, "{line}: {then} and {away} more");
    lazy.check_all();
    wait_until_full(&host, "lazy");
    let motion = host.ask("lazy", "query-migrate", None).unwrap();
    let report = &motion["x-whimbrel-report"];
    assert_eq!(report["restore"]["how"], "lazy");
    assert_eq!(motion["ram"]["transferred"], report["ram"]["bytes"]);
    assert_eq!(motion["ram"]["normal"], pages);
    let fill = &report["restore"]["fill"];
    let numbers = |list: &Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&motion["postcopy-vcpu-blocktime"]).len(), 2);
    let told_of: u64 = numbers(&motion["postcopy-latency-dist"]).iter().sum();
    assert_eq!(fill["latency"]["count"], told_of, "{motion:#}");
    let waited = fill["latency"]["sum_ns"].as_u64().unwrap().checked_div(told_of).unwrap_or(0);
    assert_eq!(motion["postcopy-latency"], waited);
    drop(lazy);

    for (verify, verified) in [(true, pages), (false, 0)] {
        let mapped = waiting("mapped");
        told(
            "mapped",
            json!({"x-whimbrel-clone": true, "x-whimbrel-mmap": true, "x-whimbrel-verify": verify}),
        )
        .unwrap();
        host.wait_for_state("mapped", "running");
        mapped.check_all();
        let restore = self::report(&host, "mapped")["restore"].clone();
        assert_eq!(
            (&restore["how"], &restore["verified_pages"]),
            (&json!("mmap"), &json!(verified))
        );
    }

    // Once, until somebody says that it is to be once more.
    assert_eq!(claim(&file), None);
    let mut first = waiting("first");
    told("first", json!({})).unwrap();
    host.wait_for_state("first", "running");
    first.check_all();
    assert_eq!(uuid("first"), original);
    first.kill();
    let again = waiting("again");
    let error = told("again", json!({"exit-on-error": false})).unwrap_err();
    assert!(error.to_string().contains("continued on host"), "{error}");
    told("again", json!({"x-whimbrel-reclaim": true})).unwrap();
    host.wait_for_state("again", "running");
    again.check_all();
}
