//! Machines for guests that come from elsewhere.

use crate::available::{Available, Shortage};
use crate::clock::GuestClock;
use crate::config::MachineConfig;
use crate::description::{Described, SavedBoot, SavedCpuid, SavedMachine, schemas};
use crate::error::VmError;
use crate::kvm::Hypervisor;
use crate::status::{EventSink, RunState};
use crate::vcpu::{Vcpu, cpuid, msr};
use crate::vm::{self, Model, Vm};
use devices::console::{Console, ConsoleError};
use devices::lock;
use kvm_bindings::kvm_cpuid_entry2;
use memory::{Backing, GuestRam, Layout, RamImage};
use motion::{DestinationMachine, MachineBuilder};
use state::{Bundle, Code, Declared, Refusal};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;
use uuid::Uuid;

/// How far two TSCs may be apart for a guest not to notice, in parts per million: what KVM itself
/// tolerates before it scales (its parameter `tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// What a destination's own flags say of the machine that is to come. Whatever is not given is as
/// the source says.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// What the machine is called here.
    pub name: Option<String>,
    /// What backs its RAM here.
    pub backing: Option<Backing>,
    /// The machine has to have this UUID.
    pub uuid: Option<Uuid>,
    /// The machine has to have this much RAM, in bytes.
    pub memory: Option<u64>,
    /// The machine has to have this many vCPUs.
    pub vcpus: Option<u32>,
    /// Take a machine for whose RAM there is not enough memory: it may never use all of it.
    pub overcommit: bool,
    /// It is no longer the machine that was saved but a copy of it, with this UUID.
    pub clone: Option<Uuid>,
    /// What becomes of its guest's clocks.
    pub clock: GuestClock,
    /// Where its RAM is from.
    pub ram: RamOrigin,
}

/// Where the RAM of a machine that comes is from.
#[derive(Debug, Clone, Default)]
pub enum RamOrigin {
    /// It is made for the machine, and filled.
    #[default]
    New,
    /// It begins as what this holds, and is not filled.
    Image(Arc<RamImage>),
    /// Another process of this host has it too, and its guest may be running there: nothing is
    /// written to it before the guest runs here.
    Shared(Arc<GuestRam>),
}

/// Opens the host's end of a machine's console, frozen.
pub type ConsoleSource = Box<dyn Fn() -> Result<Console, ConsoleError> + Send + Sync>;

/// Builds machines for guests that come from elsewhere, on this host's KVM.
pub struct Builder {
    hypervisor: Arc<Hypervisor>,
    wishes: Wishes,
    consoles: ConsoleSource,
    events: EventSink,
    built: Mutex<Option<Arc<Vm>>>,
}

impl Builder {
    /// A builder for machines whose consoles come from `consoles` and whose events go to `events`.
    #[must_use]
    pub fn new(
        hypervisor: Arc<Hypervisor>,
        wishes: Wishes,
        consoles: ConsoleSource,
        events: EventSink,
    ) -> Self {
        Self { hypervisor, wishes, consoles, events, built: Mutex::new(None) }
    }

    /// The machine that was built last.
    #[must_use]
    pub fn built(&self) -> Option<Arc<Vm>> {
        lock(&self.built).clone()
    }

    /// Lets go of the machine that was built last, after a motion that failed.
    pub fn forget(&self) {
        *lock(&self.built) = None;
    }

    /// All reasons against this machine.
    fn reasons(&self, described: &Described) -> Vec<Refusal> {
        let mut reasons = unknown_schemas(described);
        reasons.extend(self.conflicts(&described.machine));
        let config = described.config(&self.wishes);
        reasons.extend(self.shortage(&config));
        reasons.extend(self.processor(described));
        reasons
    }

    fn conflicts(&self, machine: &SavedMachine) -> Vec<Refusal> {
        let Wishes { backing, uuid, memory, vcpus, ram, .. } = &self.wishes;
        let mut conflicts = Vec::new();
        let mut compare = |flag: &str, wished: Option<String>, comes: String| {
            if let Some(wished) = wished.filter(|wished| *wished != comes) {
                conflicts.push(Refusal::new(
                    Code::ConfigConflict,
                    flag,
                    format!("{wished} is asked for here, and the machine that comes has {comes}"),
                    format!("leave {flag} out: a machine comes as it is"),
                ));
            }
        };
        let comes = Uuid::from_bytes(machine.uuid);
        compare("--uuid", uuid.map(|u| u.to_string()), comes.to_string());
        compare("--memory", memory.map(|m| m.to_string()), machine.memory.to_string());
        compare("--cpus", vcpus.map(|v| v.to_string()), machine.vcpus.to_string());
        let other_backing = |has: Backing| backing.filter(|asked| *asked != has);
        match ram {
            RamOrigin::New => {}
            RamOrigin::Image(_) => conflicts.extend(other_backing(Backing::Small).map(|backing| {
                Refusal::new(
                    Code::ConfigConflict,
                    "--hugepages",
                    format!("{backing} is asked for, and RAM that is mapped from a file has its pages of 4 KiB"),
                    "leave --hugepages out, or restore with --lazy or --eager",
                )
            })),
            RamOrigin::Shared(ram) => {
                conflicts.extend(other_backing(ram.backing()).map(|backing| {
                    Refusal::new(
                        Code::ConfigConflict,
                        "--hugepages",
                        format!("{backing} is asked for, and the RAM that comes is {}", ram.backing()),
                        "leave --hugepages out: RAM stays as it is",
                    )
                }));
                conflicts.extend(other_ram(machine, ram));
            }
        }
        conflicts
    }

    /// Whether its RAM can be had.
    fn shortage(&self, config: &MachineConfig) -> Vec<Refusal> {
        let MachineConfig { memory, backing, .. } = config;
        if let Err(e) = Layout::new(*memory, backing.page_size()) {
            return vec![Refusal::new(Code::MemoryUnavailable, "ram", e.to_string(), "")];
        }
        if let RamOrigin::Shared(_) = self.wishes.ram {
            // It is there already.
            return Vec::new();
        }
        let shortage = Available::of_host().shortage(*memory, *backing);
        let refuse =
            |Shortage { why, advice }| Refusal::new(Code::InsufficientMemory, "ram", why, advice);
        // Huge pages are reserved, so that there is nothing to overcommit.
        let overcommit = self.wishes.overcommit && backing.pool().is_none();
        shortage.filter(|_| !overcommit).map(refuse).into_iter().collect()
    }

    /// Whether the processor can be had: it is made, in a machine that does not last.
    fn processor(&self, described: &Described) -> Vec<Refusal> {
        let machine = &described.machine;
        let cpu =
            |why: String, advice: &str| Refusal::new(Code::IncompatibleCpu, "cpu", why, advice);
        let most = self.hypervisor.most_vcpus();
        if machine.vcpus > most {
            let why = format!("it has {} vCPUs, and this host's KVM gives {most}", machine.vcpus);
            return vec![cpu(why, "")];
        }
        let sample = match self.sample(described) {
            Ok(made) => made,
            Err(e) => return vec![cpu(e.to_string(), "")],
        };
        let Sample { here, set: vcpu } = &sample;
        let guest = described.cpuid.first().map(SavedCpuid::entries).unwrap_or_default();
        let mut reasons = lacking(&guest, here.cpuid(), vcpu.cpuid());
        let (there, here) = (machine.xsave_size, vcpu.xsave_size() as u64);
        if there > here {
            reasons.push(cpu(
                format!("its XSAVE area is {there} bytes, and KVM's here is {here}"),
                "",
            ));
        }
        reasons.extend(refused_msrs(vcpu, &machine.msrs).into_iter().map(|why| cpu(why, "")));
        // Last, for it makes another of the vCPU.
        for (index, guest) in described.cpuid.iter().map(SavedCpuid::entries).enumerate().skip(1) {
            match vcpu.try_cpuid(&guest) {
                Ok(set) => reasons.extend(lacking(&guest, sample.here.cpuid(), &set)),
                Err(e) => reasons.push(cpu(format!("vCPU {index}: setting its CPUID: {e}"), "")),
            }
        }
        // What one vCPU lacks the others usually lack too.
        let mut told = HashSet::new();
        reasons.retain(|reason| told.insert(reason.why.clone()));
        let (there, here) = (u64::from(machine.tsc_khz), u64::from(vcpu.tsc_khz()));
        if there.abs_diff(here) * 1_000_000 > there * TSC_TOLERANCE_PPM {
            reasons.push(Refusal::new(
                Code::IncompatibleTsc,
                "tsc",
                format!("its TSC counts {there} kHz; here it counts {here}, and cannot be scaled"),
                "move to a host whose processor scales the TSC, or has one of that frequency",
            ));
        }
        sample.discard();
        reasons
    }

    /// The first vCPU of the machine as it would be here, and the one that this host would make of
    /// itself, which says what there is to be had: some KVMs give more than they say they support.
    fn sample(&self, described: &Described) -> Result<Sample, VmError> {
        let vm = vm::create(&self.hypervisor)?;
        let mut own = vm::vcpus(&self.hypervisor, &vm, 0..1, described.machine.vcpus, None)?;
        let model = described.model();
        let first = Model { cpuid: model.cpuid.iter().take(1).cloned().collect(), ..model };
        let other = vm::create(&self.hypervisor)?;
        let mut set =
            vm::vcpus(&self.hypervisor, &other, 0..1, described.machine.vcpus, Some(&first))?;
        let one = "one vCPU was asked for";
        Ok(Sample { here: own.pop().expect(one), set: set.pop().expect(one) })
    }

    fn try_build(&self, described: Described) -> Result<Arc<Vm>, Refusal> {
        let refused = |code, what: &str, why: String| Refusal::new(code, what, why, "");
        let config = described.config(&self.wishes);
        let ram = match &self.wishes.ram {
            RamOrigin::New => GuestRam::new(config.memory, config.backing).map(Arc::new),
            RamOrigin::Image(image) => GuestRam::over(image.clone()).map(Arc::new),
            RamOrigin::Shared(ram) => Ok(ram.clone()),
        };
        let ram = ram.map_err(|e| refused(Code::MemoryUnavailable, "ram", e.to_string()))?;
        let console =
            (self.consoles)().map_err(|e| refused(Code::HostIo, "console", e.to_string()))?;
        let (events, state) = (self.events.clone(), RunState::Inmigrate);
        let model = described.model();
        let vm = Vm::build(&self.hypervisor, config, ram, console, events, Some(&model), state)
            .map_err(|e| refused(e.code(), "machine", e.to_string()))?;
        {
            let mut control = vm.control();
            control.boot = described.boot.map(SavedBoot::into_source);
            control.clock = self.wishes.clock;
        }
        Ok(Arc::new(vm))
    }
}

impl MachineBuilder for Builder {
    fn check(&self, description: &Bundle) -> Vec<Refusal> {
        match Described::of(description.clone()) {
            Ok(described) => self.reasons(&described),
            Err(e) => vec![malformed(&e)],
        }
    }

    fn build(&self, description: Bundle) -> Result<Arc<dyn DestinationMachine>, Vec<Refusal>> {
        let described = Described::of(description).map_err(|e| vec![malformed(&e)])?;
        let vm = self.try_build(described).map_err(|refusal| vec![refusal])?;
        *lock(&self.built) = Some(vm.clone());
        Ok(vm)
    }
}

impl Described {
    /// What the vCPUs are to be like.
    pub(crate) fn model(&self) -> Model {
        Model {
            cpuid: self.cpuid.iter().map(SavedCpuid::entries).collect(),
            tsc_khz: self.machine.tsc_khz,
            xsave_size: self.machine.xsave_size,
            msrs: self.machine.msrs.clone(),
        }
    }
}

/// Two vCPUs that do not last.
struct Sample {
    /// As this host would make one.
    here: Vcpu,
    /// Like the guest's.
    set: Vcpu,
}

impl Sample {
    /// Closes both machines, which takes the kernel some milliseconds, beside whatever comes next:
    /// a source is waiting.
    fn discard(self) {
        // Where there is no thread to be had they are closed here.
        let _ = thread::Builder::new().name("discard".to_owned()).spawn(move || drop(self));
    }
}

/// Whether RAM that is shared is another machine's.
fn other_ram(machine: &SavedMachine, ram: &GuestRam) -> Option<Refusal> {
    let (size, backing) = (ram.layout().size(), ram.backing());
    let is_its = size == machine.memory && backing.as_str() == machine.backing;
    (!is_its).then(|| {
        Refusal::new(
            Code::MemoryUnavailable,
            "ram",
            format!(
                "the memory file that came is {size} bytes with --hugepages {backing}, and the \
                 machine's RAM is {} with {}",
                machine.memory, machine.backing
            ),
            "",
        )
    })
}

fn malformed(e: &state::LoadError) -> Refusal {
    let code = match e {
        state::LoadError::Unknown { .. } | state::LoadError::TooNew { .. } => {
            Code::IncompatibleDevice
        }
        _ => Code::BadState,
    };
    Refusal::new(code, "description", e.to_string(), "use the same build on both sides")
}

/// State that would come and cannot be loaded here, and state that is needed and would not come.
fn unknown_schemas(described: &Described) -> Vec<Refusal> {
    let advice = "use a build here that is as new as the source's";
    let refuse = |name: &str, why: String| {
        Refusal::new(Code::IncompatibleDevice, format!("device {name}"), why, advice)
    };
    let known = schemas();
    let come = &described.schemas.schemas;
    let mut reasons = Vec::new();
    for (name, version, least_reader) in come {
        match known.iter().find(|known| known.schema == *name) {
            None => reasons.push(refuse(name, "this build does not know it".to_owned())),
            Some(Declared { version: ours, .. }) if least_reader > ours => {
                let used = described.schemas.used_of(name);
                let used = used.map(|field| format!(" with `{field}` in use"));
                let why = format!(
                    "it comes as version {version}{}, for readers of {least_reader} or later, and \
                     this build reads {ours}",
                    used.unwrap_or_default()
                );
                reasons.push(refuse(name, why));
            }
            Some(_) => {}
        }
    }
    for Declared { schema, .. } in known {
        if !come.iter().any(|(name, ..)| *name == schema) {
            reasons.push(refuse(&schema, "the source does not send its state".to_owned()));
        }
    }
    reasons
}

/// What the guest's vCPU is, and one that is set to be the same here is not.
fn lacking(
    guest: &[kvm_cpuid_entry2],
    here: &[kvm_cpuid_entry2],
    set: &[kvm_cpuid_entry2],
) -> Vec<Refusal> {
    let advice = "move to a host whose processor has it";
    let refuse =
        |lack: &cpuid::Lack| Refusal::new(Code::IncompatibleCpu, "cpu", lack.to_string(), advice);
    cpuid::lacks(guest, here, set).iter().map(refuse).collect()
}

/// MSRs of the guest's vCPUs that those here have not, or would not take.
fn refused_msrs(vcpu: &Vcpu, wanted: &[msr::Msr]) -> Vec<String> {
    let here = &vcpu.made().msrs;
    let mut reasons = Vec::new();
    for &(index, value) in wanted {
        match here.iter().find(|(i, _)| *i == index) {
            None => reasons.push(format!("it has MSR {index:#x}, which KVM here has not")),
            Some((_, ours)) if *ours == value || !msr::is_constant(index) => {}
            Some((_, ours)) => {
                if let Err(e) = msr::write(vcpu.fd(), &[(index, value)]) {
                    reasons.push(format!("{e} (here it is {ours:#x})"));
                }
            }
        }
    }
    reasons
}
