//! What another host must know to build and check a machine like this one, before its guest stops.

use crate::board::Board;
use crate::boot::Image;
use crate::config::{BootSource, MachineConfig};
use crate::motion::cpu_name;
use crate::vcpu::SavedVcpu;
use crate::vm::{Control, Vm};
use crate::{RamOrigin, SavedClock, Wishes};
use devices::console::SavedConsole;
use kvm_bindings::kvm_cpuid_entry2;
use memory::Backing;
use minicbor::{Decode, Encode};
use state::{Bundle, Declared, Payload, Saved};
use uuid::Uuid;

/// The longest kernel and initrd, in bytes together, that travel with a machine so that its guest
/// can be reset where it arrives. A guest with longer ones is shut down when it resets itself there.
pub const MOST_BOOT_BYTES: u64 = (16 << 20) - (512 << 10);

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedMachine {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its UUID.
    #[n(1)]
    pub uuid: [u8; 16],
    /// Size of its RAM in bytes.
    #[n(2)]
    pub memory: u64,
    /// What backs its RAM: `off`, `thp`, `2M`, `1G`.
    #[n(3)]
    pub backing: String,
    /// How many vCPUs it has.
    #[n(4)]
    pub vcpus: u32,
    /// Frequency of the guest's TSC in kHz.
    #[n(5)]
    pub tsc_khz: u32,
    /// Size of a vCPU's XSAVE area in bytes.
    #[n(6)]
    pub xsave_size: u64,
    /// The MSRs of a vCPU, with the values that it was made with.
    #[n(7)]
    pub msrs: Vec<(u32, u64)>,
}

impl Saved for SavedMachine {
    const SCHEMA: &'static str = "whimbrel.machine";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// A leaf of CPUID: function, index, flags as KVM has them, EAX, EBX, ECX, EDX.
type Leaf = [u32; 7];

/// What the guest sees of a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedCpuid {
    /// The leaves, as KVM reads them back.
    #[n(0)]
    pub leaves: Vec<Leaf>,
}

impl Saved for SavedCpuid {
    const SCHEMA: &'static str = "whimbrel.cpuid";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl SavedCpuid {
    pub(crate) fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let leaf =
            |e: &kvm_cpuid_entry2| [e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx];
        Self { leaves: entries.iter().map(leaf).collect() }
    }

    pub(crate) fn entries(&self) -> Vec<kvm_cpuid_entry2> {
        let entry = |&[function, index, flags, eax, ebx, ecx, edx]: &Leaf| kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        self.leaves.iter().map(entry).collect()
    }
}

/// The schemas of the state that is to come: name, version, least version of a reader.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedSchemas {
    /// The schemas.
    #[n(0)]
    pub schemas: Vec<(String, u16, u16)>,
    /// For which of them an older reader would do if a field were not in use: schema and field.
    #[n(1)]
    pub in_use: Option<Vec<(String, String)>>,
}

impl Saved for SavedSchemas {
    const SCHEMA: &'static str = "whimbrel.schemas";
    const VERSION: u16 = 2;
    const LEAST_READER: u16 = 1;
}

/// What the machine boots when its guest resets it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedBoot {
    /// The kernel's name, for messages.
    #[n(0)]
    pub kernel_name: String,
    /// The kernel.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub kernel: Vec<u8>,
    /// The initrd's name and contents.
    #[n(2)]
    pub initrd: Option<(String, minicbor::bytes::ByteVec)>,
    /// The kernel's command line.
    #[n(3)]
    pub cmdline: String,
}

impl Saved for SavedBoot {
    const SCHEMA: &'static str = "whimbrel.boot";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl SavedBoot {
    /// What travels of `source`: nothing when it is longer than `most` bytes, or can no longer be read.
    fn of(source: &BootSource, most: u64) -> Option<Self> {
        let BootSource { kernel, initrd, cmdline } = source;
        let length = kernel.length() + initrd.as_ref().map_or(0, Image::length);
        if length > most {
            tracing::info!(length, "the kernel is too long to travel with its machine");
            return None;
        }
        let read = |image: &Image| {
            let mut bytes = vec![0; usize::try_from(image.length()).ok()?];
            let read = image.read_at(0, &mut bytes).map(|()| bytes);
            read.inspect_err(|e| tracing::warn!("the kernel does not travel: {e}")).ok()
        };
        let initrd = match initrd {
            Some(image) => Some((image.name().to_owned(), read(image)?.into())),
            None => None,
        };
        Some(Self {
            kernel_name: kernel.name().to_owned(),
            kernel: read(kernel)?,
            initrd,
            cmdline: cmdline.clone(),
        })
    }

    pub(crate) fn into_source(self) -> BootSource {
        let Self { kernel_name, kernel, initrd, cmdline } = self;
        BootSource {
            kernel: Image::from_bytes(kernel_name, kernel),
            initrd: initrd.map(|(name, bytes)| Image::from_bytes(name, Vec::from(bytes))),
            cmdline,
        }
    }
}

impl SavedSchemas {
    fn of(declared: Vec<Declared>) -> Self {
        let (mut schemas, mut in_use) = (Vec::new(), Vec::new());
        for Declared { schema, version, least_reader, in_use: field } in declared {
            in_use.extend(field.map(|field| (schema.clone(), field)));
            schemas.push((schema, version, least_reader));
        }
        Self { schemas, in_use: (!in_use.is_empty()).then_some(in_use) }
    }

    /// The field because of which it needs so new a reader, if it is for one.
    pub(crate) fn used_of(&self, schema: &str) -> Option<&str> {
        let in_use = self.in_use.as_deref().unwrap_or_default();
        in_use.iter().find(|(of, _)| of == schema).map(|(_, field)| field.as_str())
    }
}

/// What a machine saves beside its devices.
fn own_schemas() -> [Declared; 3] {
    [Declared::of::<SavedVcpu>(), Declared::of::<SavedClock>(), Declared::of::<SavedConsole>()]
}

/// The schemas of everything that is loaded here.
pub(crate) fn schemas() -> Vec<Declared> {
    let all = own_schemas().into_iter().chain(Board::schemas()).collect();
    #[cfg(feature = "mutate")]
    let all = crate::mutate::declared(all);
    all
}

impl Vm {
    /// The description of this machine, in at most so many bytes if what it boots can be left out for
    /// it.
    pub(crate) fn description(&self, control: &Control, most: u64) -> Bundle {
        let MachineConfig { name, uuid, memory, backing, vcpus } = self.config();
        let model = self.model();
        let mut bundle = Bundle::new();
        bundle.put(
            "",
            &SavedMachine {
                name: name.clone(),
                uuid: uuid.into_bytes(),
                memory: *memory,
                backing: backing.as_str().to_owned(),
                vcpus: *vcpus,
                tsc_khz: model.tsc_khz,
                xsave_size: model.xsave_size,
                msrs: model.msrs.clone(),
            },
        );
        for (index, entries) in model.cpuid.iter().enumerate() {
            bundle.put(cpu_name(index), &SavedCpuid::of(entries));
        }
        // Of devices as they are now, for it is asked what of them is in use. vCPUs are not looked at
        // while they run.
        let mut devices = Bundle::new();
        self.shared().board.save(&mut devices);
        let devices = devices.payloads().iter().map(Payload::declared);
        let declared = own_schemas().into_iter().chain(devices).collect();
        bundle.put("", &SavedSchemas::of(declared));
        // Names and lengths take some more.
        let room = most.saturating_sub(bundle.encode().len() as u64 + (8 << 10));
        let most = MOST_BOOT_BYTES.min(room);
        if let Some(boot) = control.boot.as_ref().and_then(|boot| SavedBoot::of(boot, most)) {
            bundle.put("", &boot);
        }
        bundle
    }
}

/// A description taken apart.
#[derive(Debug)]
pub(crate) struct Described {
    pub machine: SavedMachine,
    pub cpuid: Vec<SavedCpuid>,
    pub schemas: SavedSchemas,
    pub boot: Option<SavedBoot>,
}

impl Described {
    /// Takes all of `bundle`.
    pub fn of(mut bundle: Bundle) -> Result<Self, state::LoadError> {
        let machine: SavedMachine = bundle.take("")?;
        let malformed = |reason: String| state::LoadError::Malformed {
            schema: SavedMachine::SCHEMA.to_owned(),
            instance: String::new(),
            reason,
        };
        if machine.vcpus == 0 || machine.vcpus > crate::MOST_VCPUS {
            return Err(malformed(format!("it has {} vCPUs", machine.vcpus)));
        }
        machine.backing.parse::<Backing>().map_err(malformed)?;
        let cpuid = (0..machine.vcpus as usize)
            .map(|index| bundle.take(&cpu_name(index)))
            .collect::<Result<_, _>>()?;
        let (schemas, boot) = (bundle.take("")?, bundle.take_optional("")?);
        bundle.finish()?;
        Ok(Self { machine, cpuid, schemas, boot })
    }

    /// The machine as it is to be here.
    pub fn config(&self, wishes: &Wishes) -> MachineConfig {
        let SavedMachine { name: own, uuid, memory, backing: there, vcpus, .. } = &self.machine;
        MachineConfig {
            name: wishes.name.as_ref().unwrap_or(own).clone(),
            uuid: wishes.clone.unwrap_or(Uuid::from_bytes(*uuid)),
            memory: *memory,
            backing: match &wishes.ram {
                RamOrigin::New => wishes.backing.or(there.parse().ok()).unwrap_or_default(),
                RamOrigin::Image(_) => Backing::Small,
                RamOrigin::Shared(ram) => ram.backing(),
            },
            vcpus: *vcpus,
        }
    }
}
