//! Building a machine on KVM, and booting it.

use crate::acpi;
use crate::board::{Board, InUpdate, Power};
use crate::boot::{self, BootError};
use crate::clock::{Clock, GuestClock};
use crate::config::{BootFiles, BootSource, MOST_VCPUS, MachineConfig};
use crate::dirty::{self, DirtyBitmap};
use crate::error::VmError;
use crate::gate::Gate;
use crate::irq::LocalApics;
use crate::kvm::Hypervisor;
use crate::motion::HaltedClocks;
use crate::run_page::RunPage;
use crate::slots::Slots;
use crate::status::{EventSink, RunState, Status};
use crate::sys::io_error;
use crate::vcpu::cpuid::{self, Topology};
use crate::vcpu::msr::Msr;
use crate::vcpu::thread::{self, Shared};
use crate::vcpu::{Abilities, Vcpu};
use devices::console::Console;
use devices::{ioapic, lock};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::{Cap, VmFd};
use memory::GuestRam;
use motion::handover::RunPermit;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use vm_memory::{Bytes as _, GuestAddress};

/// Three pages that KVM needs on Intel processors that cannot run real mode in hardware, in the
/// hole for devices (`KVM_SET_TSS_ADDR`), and one below them (`KVM_SET_IDENTITY_MAP_ADDR`).
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What a machine's vCPUs are like.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// The CPUID of each vCPU.
    pub cpuid: Vec<Vec<kvm_cpuid_entry2>>,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u32,
    /// Size of the XSAVE area in bytes.
    pub xsave_size: u64,
    /// The MSRs, with the values that they were made with.
    pub msrs: Vec<Msr>,
}

impl Model {
    /// What these vCPUs are like.
    fn of(vcpus: &[Vcpu]) -> Self {
        let first = vcpus.first();
        Self {
            cpuid: vcpus.iter().map(|vcpu| vcpu.cpuid().to_vec()).collect(),
            tsc_khz: first.map_or(0, Vcpu::tsc_khz),
            xsave_size: first.map_or(0, |vcpu| vcpu.xsave_size() as u64),
            msrs: first.map_or_else(Vec::new, |vcpu| vcpu.made().msrs.clone()),
        }
    }
}

/// A machine.
///
/// Dropping it ends its vCPUs' threads and closes it, also while its RAM is being filled or copied.
pub struct Vm {
    config: MachineConfig,
    model: Model,
    vm: Arc<VmFd>,
    slots: Arc<Slots>,
    dirty: DirtyBitmap,
    clock: Clock,
    console: Console,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    control: Mutex<Control>,
    /// Processors among which work is shared out. Asked before there is a guest: the answer comes out
    /// of several files of the kernel's, which takes a tenth of a millisecond.
    processors: usize,
}

/// What only one at a time may change.
#[derive(Debug)]
pub(crate) struct Control {
    /// The permission to run the guest.
    pub permit: Option<RunPermit>,
    /// What the machine boots when its guest resets it.
    pub boot: Option<BootSource>,
    /// What becomes of the clocks of a guest that comes.
    pub clock: GuestClock,
    /// Where the clocks go on when the guest runs, which until then they do not.
    pub halted: Option<HaltedClocks>,
}

impl Vm {
    /// Builds a machine on `ram`, with all vCPUs and devices, and starts nothing. `console` is the
    /// host's end of its serial line; it is frozen whenever another process may run the guest.
    ///
    /// # Errors
    /// [`VmError`]; nothing of the machine is left.
    pub fn new(
        hypervisor: &Hypervisor,
        config: MachineConfig,
        ram: GuestRam,
        console: Console,
        events: EventSink,
    ) -> Result<Self, VmError> {
        let (ram, state) = (Arc::new(ram), RunState::Prelaunch);
        Self::build(hypervisor, config, ram, console, events, None, state)
    }

    /// As [`Self::new`], for vCPUs like those of `model` if there is one.
    pub(crate) fn build(
        hypervisor: &Hypervisor,
        config: MachineConfig,
        ram: Arc<GuestRam>,
        console: Console,
        events: EventSink,
        model: Option<&Model>,
        state: RunState,
    ) -> Result<Self, VmError> {
        check(hypervisor, &config, &ram)?;
        let vm = Arc::new(create(hypervisor)?);
        let slots = Slots::new(vm.clone(), ram).map_err(VmError::kvm("mapping RAM"))?;
        let slots = Arc::new(slots);
        let vcpus = vcpus(hypervisor, &vm, 0..config.vcpus, config.vcpus, model)?;
        let pages = vcpus.iter().map(|vcpu| RunPage::map(vcpu.fd())).collect::<io::Result<_>>();
        let pages = pages.map_err(VmError::kvm("mapping what a vCPU shares with the kernel"))?;
        let gate = Gate::new(pages).map_err(VmError::kvm("installing the signal handler"))?;
        let (gate, status) = (Arc::new(gate), Arc::new(Status::new(state, events)));
        let power = Power { gate: gate.clone(), status: status.clone() };
        let board = Board::new(Arc::new(LocalApics(vm.clone())), console.line(), Arc::new(power))?;
        console.connect(board.uart());
        let first = vcpus.first();
        let (host, guest) = (first.map_or(0, Vcpu::host_khz), first.map_or(0, Vcpu::tsc_khz));
        let clock = Clock::new(&vm, host, guest);
        let model = Model::of(&vcpus);
        let vcpus = vcpus.into_iter().map(Mutex::new).collect();
        let shared = Arc::new(Shared { vcpus, gate, board, status, ram: slots.ram().clone() });
        let mut machine = Self {
            dirty: DirtyBitmap::new(slots.clone()),
            config,
            model,
            vm,
            slots,
            clock,
            console,
            shared,
            threads: Vec::new(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            control: Mutex::new(Control {
                permit: None,
                boot: None,
                clock: GuestClock::default(),
                halted: None,
            }),
        };
        for index in 0..machine.shared.vcpus.len() {
            let thread = thread::start(machine.shared.clone(), index);
            machine.threads.push(thread.map_err(VmError::kvm("starting a vCPU's thread"))?);
        }
        // From here on nobody touches a vCPU but who is told to.
        let stuck = |e| VmError::kvm("starting the vCPUs' threads")(io::Error::other(e));
        machine.shared.gate.stop().map_err(stuck)?;
        Ok(machine)
    }

    /// The files that its guest boots from when it is reset, if it can be, for another process.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn boot_files(&self) -> io::Result<Option<BootFiles>> {
        self.control().boot.as_ref().map(BootSource::files).transpose()
    }

    /// Boots from these when its guest resets it, which came from another process.
    ///
    /// # Errors
    /// [`VmError`] when they are no files that could be read.
    pub fn reset_from(&self, files: BootFiles) -> Result<(), VmError> {
        self.control().boot = Some(BootSource::of_files(files)?);
        Ok(())
    }

    /// Loads a kernel, and sets the first vCPU to its entry. The others wait to be woken by it. The
    /// source is kept for when the guest resets the machine.
    ///
    /// # Errors
    /// [`VmError`]; the machine is of no further use.
    pub fn boot(&self, source: BootSource) -> Result<(), VmError> {
        let mut control = self.control();
        let state = self.shared.status.state();
        if state != RunState::Prelaunch || control.boot.is_some() {
            return Err(VmError::NotNew(state));
        }
        self.load(&source)?;
        control.boot = Some(source);
        Ok(())
    }

    /// Loads a kernel into RAM that is all zero, and sets the first vCPU, which is as KVM made it,
    /// to its entry.
    pub(crate) fn load(&self, source: &BootSource) -> Result<(), VmError> {
        let memory = self.slots.ram().memory();
        let ids: Vec<u8> = (0u8..).take(self.shared.vcpus.len()).collect();
        let tables = acpi::build(&ids);
        memory
            .write_slice(&tables.bytes, GuestAddress(tables.address))
            .map_err(|source| BootError::Memory { what: "the ACPI tables", source })?;
        let BootSource { kernel, initrd, cmdline } = source;
        let entry = boot::load(memory, kernel, initrd.as_ref(), cmdline, tables.rsdp)?;
        let vcpu = self.vcpu(0);
        let enter = || {
            let (regs, sregs) = boot::initial_registers(entry, vcpu.sregs()?);
            vcpu.enter(&regs, &sregs)
        };
        enter().map_err(VmError::kvm("setting the first vCPU to the kernel's entry"))
    }

    /// What it was asked to be.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// What its vCPUs are like.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Its run state, as far as the machine itself knows it.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.shared.status.state()
    }

    /// Why the guest cannot go on, in the state [`RunState::InternalError`].
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.status.failure()
    }

    /// Whether the guest has asked to be reset, and was not yet.
    #[must_use]
    pub fn wants_reset(&self) -> bool {
        self.shared.status.reset_wanted()
    }

    /// Its console.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// What each device, by its name, needs of an update that begins. What is asked for is lent to the new process from
    /// then on, until the console is [thawed](Console::thaw), or [left](Console::leave).
    ///
    /// # Errors
    /// What the kernel said; nothing has changed then.
    pub fn in_update(&self) -> io::Result<impl IntoIterator<Item = (&'static str, InUpdate)>> {
        self.shared().board.in_update(&self.console)
    }

    /// The ids of its vCPUs' threads, in the vCPUs' order.
    #[must_use]
    pub fn vcpu_threads(&self) -> Vec<i32> {
        self.shared.gate.threads()
    }

    /// Asks the guest to power off, as a person does who presses the button. It may take its time,
    /// or not listen.
    pub fn press_power_button(&self) {
        self.shared.board.press_power_button();
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// A vCPU, once it is stopped.
    pub(crate) fn vcpu(&self, index: usize) -> MutexGuard<'_, Vcpu> {
        lock(&self.shared.vcpus[index])
    }

    /// How many processors the host has for this process.
    pub(crate) fn processors(&self) -> usize {
        self.processors
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn bitmap(&self) -> &DirtyBitmap {
        &self.dirty
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn vm_fd(&self) -> &VmFd {
        &self.vm
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shared.gate.end();
        if self.slots.ram().may_wait() {
            // The order: no vCPU ever enters the guest again; then whoever waits for a page is let
            // go, with a page of zeroes if it was yet to come; then the VM may be closed, which waits
            // for all of them (its asynchronous page faults too). What is printed of such zeroes is not.
            let _ = self.console.freeze();
            self.slots.ram().let_go();
        }
        for thread in self.threads.drain(..) {
            // A panic of its own was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("config", &self.config)
            .field("status", &self.shared.status)
            .finish_non_exhaustive()
    }
}

fn check(hypervisor: &Hypervisor, config: &MachineConfig, ram: &GuestRam) -> Result<(), VmError> {
    let asked = config.vcpus;
    if asked == 0 || asked > MOST_VCPUS {
        return Err(VmError::Vcpus(asked));
    }
    let most = hypervisor.most_vcpus();
    if asked > most {
        return Err(VmError::HostVcpus { asked, most });
    }
    let found = ram.layout().size();
    if found != config.memory {
        return Err(VmError::RamSize { found, expected: config.memory });
    }
    Ok(())
}

/// How long KVM takes to give a machine its memory slots, which a machine that is made for `ram` has
/// to wait for. The machine that it is measured with is closed again.
///
/// # Errors
/// [`VmError`].
pub fn time_of_slots(hypervisor: &Hypervisor, ram: GuestRam) -> Result<Duration, VmError> {
    let vm = Arc::new(create(hypervisor)?);
    let slots = Slots::new(vm, Arc::new(ram)).map_err(VmError::kvm("mapping RAM"))?;
    Ok(slots.took())
}

/// A VM with nothing in it but what has to be decided first.
pub(crate) fn create(hypervisor: &Hypervisor) -> Result<VmFd, VmError> {
    let failed = |action: &'static str| move |e| VmError::kvm(action)(io_error(e));
    let vm = loop {
        match hypervisor.kvm().create_vm() {
            // It starts a thread, and waiting for that ends with any signal (or a SIGCONT).
            Err(error) if error.errno() == libc::EINTR => {}
            created => break created.map_err(failed("creating a VM"))?,
        }
    };
    vm.set_identity_map_address(IDENTITY_MAP).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args[0] = ioapic::PINS.into();
    vm.enable_cap(&split).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
    dirty::enable(&vm).map_err(VmError::kvm("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
    // With these a vCPU's pending events can be saved whole.
    for (cap, name) in [
        (kvm_bindings::KVM_CAP_EXCEPTION_PAYLOAD, "KVM_CAP_EXCEPTION_PAYLOAD"),
        (kvm_bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT, "KVM_CAP_X86_TRIPLE_FAULT_EVENT"),
    ] {
        if vm.check_extension_raw(cap.into()) > 0 {
            let mut enable = kvm_enable_cap { cap, ..Default::default() };
            enable.args[0] = 1;
            vm.enable_cap(&enable).map_err(failed(name))?;
        }
    }
    Ok(vm)
}

/// Some of the `count` vCPUs of a machine, like those of `model` or as the host gives them.
pub(crate) fn vcpus(
    hypervisor: &Hypervisor,
    vm: &VmFd,
    which: Range<u32>,
    count: u32,
    model: Option<&Model>,
) -> Result<Vec<Vcpu>, VmError> {
    let abilities = Abilities::of(vm);
    let topology = Topology { count, tsc_deadline: hypervisor.has(Cap::TscDeadlineTimer) };
    let supported = hypervisor.supported_cpuid().as_slice();
    let khz = model.map(|model| model.tsc_khz);
    let one = |index: u32| {
        let of_model = model.and_then(|m| m.cpuid.get(usize::try_from(index).ok()?));
        let entries = match of_model {
            Some(entries) => entries.clone(),
            None => cpuid::for_vcpu(supported, index, topology),
        };
        let too_many = || VmError::kvm("CPUID")(io::Error::other("more leaves than KVM takes"));
        let table = cpuid::table(&entries).ok_or_else(too_many)?;
        Vcpu::new(vm, abilities, index, &table, khz, hypervisor.msrs())
            .map_err(|e| VmError::kvm(format!("vCPU {index}: {}", e.action))(e.source))
    };
    which.map(one).collect()
}
