//! The least machine that runs a guest: one vCPU, RAM, a serial port, and no
//! interrupt controller (what the guest writes to its local APIC is kept)

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::collections::{HashMap, VecDeque};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use whimbrel_guest::Builtin;
use whimbrel_guest::report::Line;
use whimbrel_guest::shared::pattern::{Key, Page};
use whimbrel_guest::shared::progress::Progress;

const RAM: usize = 32 << 20;
const PAGE: usize = 4096;
const START_INFO: usize = 0x6000;
const MEMORY_MAP: usize = 0x6100;
const COMMAND_LINE: usize = 0x7000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the vCPU came back
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// It looked whether there is input: it is in the midst of no page
    Poll,
    /// A signal: it may be anywhere
    Signal,
    /// It shut down
    Shutdown,
    /// It wrote a byte to a port that means nothing to this machine
    Port(u16, u8),
}

/// A running guest
pub struct Guest {
    pub vm: VmFd,
    pub vcpu: VcpuFd,
    memory: *mut u8,
    image_end: usize,
    apic: HashMap<u64, u32>,
    scratch: u8,
    input: VecDeque<u8>,
    output: Vec<u8>,
    lines: VecDeque<Line>,
    transcript: String,
    _ticker: Ticker,
}

impl Guest {
    /// Starts a guest with these parameters
    pub fn boot(builtin: Builtin, parameters: &str) -> Self {
        let kvm = Kvm::new().expect("/dev/kvm can be opened, which these tests need");
        // The ticker of an earlier guest of this thread interrupts it.
        let vm = loop {
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                created => break created.unwrap(),
            }
        };
        // SAFETY: a fresh anonymous mapping
        let memory = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(ptr::null_mut(), RAM, access, kind, -1, 0)
        };
        assert_ne!(memory, libc::MAP_FAILED);
        let region = kvm_userspace_memory_region {
            memory_size: RAM as u64,
            userspace_addr: memory as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is never taken away
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
        let mut guest = Self {
            vm,
            vcpu,
            memory: memory.cast(),
            image_end: 0,
            apic: HashMap::new(),
            scratch: 0,
            input: VecDeque::new(),
            output: Vec::new(),
            lines: VecDeque::new(),
            transcript: String::new(),
            _ticker: Ticker::start(),
        };
        guest.restart(builtin, parameters);
        guest
    }

    /// Starts a guest over, in memory that is as it is
    pub fn restart(&mut self, builtin: Builtin, parameters: &str) {
        let command_line = format!("cpus=1 {parameters}\0");
        builtin.parse(command_line.trim_end_matches('\0')).unwrap();
        self.lines.clear();
        let entry = self.load(builtin.image());
        self.start(entry, &command_line);
    }

    /// Loads the segments; returns the address in the PVH note
    fn load(&mut self, elf: &[u8]) -> u64 {
        let word = |at: usize, size: usize| {
            elf[at..at + size].iter().rev().fold(0, |word, &byte| word << 8 | usize::from(byte))
        };
        let mut entry = 0;
        for header in (word(0x20, 8)..).step_by(word(0x36, 2)).take(word(0x38, 2)) {
            let (kind, offset) = (word(header, 4), word(header + 8, 8));
            let (address, in_file) = (word(header + 24, 8), word(header + 32, 8));
            match kind {
                1 => {
                    self.write(address, &elf[offset..offset + in_file]);
                    self.image_end = self.image_end.max(address + word(header + 40, 8));
                }
                // Name "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY)
                4 if word(offset + 8, 4) == 18 => entry = word(offset + 16, 4) as u64,
                _ => {}
            }
        }
        assert_ne!(entry, 0, "the image has a PVH note");
        entry
    }

    /// As Xen's public/arch-x86/hvm/start_info.h has it, and 32-bit protected mode
    fn start(&mut self, entry: u64, command_line: &str) {
        self.write(COMMAND_LINE, command_line.as_bytes());
        let map = [[0, 0x9_fc00], [0x10_0000, RAM as u64 - 0x10_0000]];
        for (i, [address, size]) in map.into_iter().enumerate() {
            let entry = [address, size, 1];
            self.write(MEMORY_MAP + 24 * i, &entry.map(u64::to_le_bytes).concat());
        }
        let info = [
            1 << 32 | 0x336e_c578, // version, magic
            0,
            0,
            COMMAND_LINE as u64,
            self.write_acpi(),
            MEMORY_MAP as u64,
            map.len() as u64,
        ];
        self.write(START_INFO, &info.map(u64::to_le_bytes).concat());

        let mut special = self.vcpu.get_sregs().unwrap();
        let segment = |kind| kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector: 0x10,
            type_: kind,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        special.cs = kvm_segment { selector: 8, ..segment(11) };
        (special.ds, special.es, special.ss) = (segment(3), segment(3), segment(3));
        (special.cr0, special.cr3, special.cr4, special.efer) = (0x11, 0, 0, 0);
        self.vcpu.set_sregs(&special).unwrap();
        let rbx = START_INFO as u64;
        self.vcpu.set_regs(&kvm_regs { rip: entry, rbx, rflags: 2, ..Default::default() }).unwrap();
    }

    /// ACPI tables with a sleep register at port 0x600 and a reset register at
    /// port 0x601; returns the address of the root pointer
    fn write_acpi(&mut self) -> u64 {
        const RSDP: usize = 0xe_0000;
        const XSDT: usize = RSDP + 0x100;
        const FADT: usize = RSDP + 0x200;
        const PORT: [u8; 4] = [1, 8, 0, 1];
        let table = |signature: &[u8; 4], size: usize| {
            let mut table = vec![0; size];
            table[..4].copy_from_slice(signature);
            table[4..8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
            table
        };
        let mut fadt = table(b"FACP", 276);
        for (at, port, value) in [(116, 0x601u64, 1), (244, 0x600, 0)] {
            fadt[at..at + 4].copy_from_slice(&PORT);
            fadt[at + 4..at + 12].copy_from_slice(&port.to_le_bytes());
            fadt[at + 12] = value;
        }
        self.write(FADT, &fadt);
        let mut xsdt = table(b"XSDT", 44);
        xsdt[36..].copy_from_slice(&(FADT as u64).to_le_bytes());
        self.write(XSDT, &xsdt);
        self.write(RSDP, b"RSD PTR ");
        self.write(RSDP + 15, &[2]);
        self.write(RSDP + 24, &(XSDT as u64).to_le_bytes());
        RSDP as u64
    }

    /// Where the memory begins that the guest works on
    pub fn image_end(&self) -> u64 {
        self.image_end as u64
    }

    /// Writes guest memory
    pub fn write(&mut self, address: usize, bytes: &[u8]) {
        assert!(address + bytes.len() <= RAM);
        // SAFETY: within the mapping; the vCPU does not run
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.add(address), bytes.len()) }
    }

    /// A page of guest memory
    pub fn page(&mut self, address: u64) -> &mut Page {
        let address = usize::try_from(address).unwrap();
        assert!(address.is_multiple_of(PAGE) && address < RAM);
        // SAFETY: within the mapping and aligned; the vCPU does not run
        unsafe { &mut *self.memory.add(address).cast() }
    }

    /// The addresses of all whole pages that hold a pattern, with its key
    pub fn pattern_pages(&mut self) -> Vec<Key> {
        (self.image_end as u64..RAM as u64)
            .step_by(PAGE)
            .filter_map(|address| {
                let page = self.page(address);
                let key = Key::of_word(page[0], 0);
                (key.address == address && Key::of_word(page[511], 511) == key).then_some(key)
            })
            .collect()
    }

    /// The page that holds one of the two copies of the vCPU's progress
    pub fn record(&mut self, copy: u64) -> u64 {
        let slots = self.image_end as u64 - (64 << 15);
        slots + (2 + copy) * PAGE as u64
    }

    /// Whether the vCPU is in the loop in which its registers are known
    pub fn in_sweep(&mut self) -> bool {
        let address = self.record(0);
        let record = *self.page(address);
        let registers = self.vcpu.get_regs().unwrap();
        [registers.r12, registers.r13, registers.r14, registers.r15] == record[..4]
            && record[0] >= Progress::START.round
    }

    /// A register of the local APIC
    pub fn apic(&mut self, address: u64) -> &mut u32 {
        self.apic.get_mut(&address).expect("the guest wrote to it")
    }

    /// The scratch register of the serial port
    pub fn uart_scratch(&mut self) -> &mut u8 {
        &mut self.scratch
    }

    /// Sends a command over the console
    pub fn send(&mut self, command: u8) {
        self.input.push_back(command);
    }

    /// Runs until the vCPU comes back
    pub fn run(&mut self) -> Stop {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(0x3f8, data)) => {
                    self.output.extend_from_slice(data);
                    if self.output.ends_with(b"\n") {
                        let text = String::from_utf8(std::mem::take(&mut self.output)).unwrap();
                        self.transcript += &text;
                        self.lines.extend(text.parse::<Line>());
                    }
                }
                Ok(VcpuExit::IoOut(0x3ff, data)) => self.scratch = data[0],
                Ok(VcpuExit::IoIn(0x3f8, data)) => {
                    data[0] = self.input.pop_front().unwrap_or(0);
                }
                Ok(VcpuExit::IoIn(0x3fd, data)) => {
                    data[0] = 0x60 | u8::from(!self.input.is_empty());
                    return Stop::Poll;
                }
                Ok(VcpuExit::IoIn(0x3ff, data)) => data[0] = self.scratch,
                // Interrupts off, FIFO on
                Ok(VcpuExit::IoOut(0x3f9 | 0x3fa, _)) => {}
                Ok(VcpuExit::IoOut(port, data)) => return Stop::Port(port, data[0]),
                Ok(VcpuExit::MmioRead(address, data)) => {
                    let value = self.apic.get(&address).copied().unwrap_or(0);
                    data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    self.apic.insert(address, u32::from_le_bytes(data.try_into().unwrap()));
                }
                Ok(VcpuExit::Shutdown) => return Stop::Shutdown,
                Err(error) if error.errno() == libc::EINTR => return Stop::Signal,
                other => panic!("the vCPU came back with {other:?}\n{}", self.transcript),
            }
        }
    }

    /// Runs until a line is printed for which `wanted` gives something
    pub fn until<T>(&mut self, wanted: impl Fn(&Line) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            while let Some(line) = self.lines.pop_front() {
                if let Some(found) = wanted(&line) {
                    return found;
                }
                assert!(!matches!(line, Line::Panic(_)), "{line}\n{}", self.transcript);
            }
            let stop = self.run();
            assert!(stop != Stop::Shutdown, "shut down\n{}", self.transcript);
            assert!(start.elapsed() < PATIENCE, "not seen\n{}", self.transcript);
        }
    }

    /// Runs until the vCPU comes back for that reason while `wanted` holds
    pub fn stop(&mut self, reason: &Stop, wanted: impl Fn(&mut Self) -> bool) {
        let start = Instant::now();
        while self.run() != *reason || !wanted(self) {
            assert!(start.elapsed() < PATIENCE, "no such moment\n{}", self.transcript);
        }
    }
}

/// Sends the thread that started it a signal every millisecond, so that a vCPU
/// comes back from wherever it is
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start() -> Self {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: the handler does nothing; without SA_RESTART calls end with EINTR
        let target = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
            libc::pthread_self()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                // SAFETY: the target joins this thread before it ends
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
