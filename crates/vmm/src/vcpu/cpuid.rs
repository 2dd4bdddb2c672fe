//! What a vCPU says that it is.
//!
//! It starts from what KVM supports here. Only what KVM cannot know is filled in: which of how many
//! this processor is (Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E). The topology is one
//! package of cores with one thread each, and a vCPU's APIC id is its index.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const LEAF81_ECX_CMP_LEGACY: u32 = 1 << 1;
const CACHE_TYPE: u32 = 0x1f;

/// What a guest's processors are, beside what KVM supports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topology {
    /// How many vCPUs there are.
    pub count: u32,
    /// Whether the local APIC's timer has a deadline mode (`KVM_CAP_TSC_DEADLINE_TIMER`); KVM does
    /// not say it with the CPUID that it supports.
    pub tsc_deadline: bool,
}

/// The leaves of vCPU `index`.
pub(crate) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    index: u32,
    topology: Topology,
) -> Vec<kvm_cpuid_entry2> {
    let find = |leaf| supported.iter().find(|e| e.function == leaf);
    let greatest = find(0).map_or(0, |e| e.eax);
    let amd = find(0).is_some_and(|e| {
        [(0x6874_7541, 0x444d_4163), (0x6f67_7948, 0x656e_6975)].contains(&(e.ebx, e.ecx))
    });
    let bits = topology.count.next_power_of_two().trailing_zeros();
    let mut entries: Vec<_> =
        supported.iter().filter(|e| !matches!(e.function, 0xb | 0x1f)).copied().collect();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | topology.count.min(0xff) << 16 | index << 24;
                entry.ecx |= LEAF1_ECX_HYPERVISOR;
                set(&mut entry.ecx, LEAF1_ECX_TSC_DEADLINE, topology.tsc_deadline);
                set(&mut entry.edx, LEAF1_EDX_HTT, topology.count > 1);
            }
            4 if entry.eax & CACHE_TYPE != 0 => {
                share_cache(entry, topology.count);
                entry.eax = entry.eax & !(0x3f << 26) | ((1 << bits) - 1).min(0x3f) << 26;
            }
            0x8000_0001 if amd => {
                set(&mut entry.ecx, LEAF81_ECX_CMP_LEGACY, topology.count > 1);
            }
            0x8000_0008 if amd => {
                entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (topology.count - 1);
            }
            0x8000_001d if entry.eax & CACHE_TYPE != 0 => share_cache(entry, topology.count),
            0x8000_001e => {
                entry.eax = index;
                entry.ebx = index & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    for leaf in [0xb, 0x1f].into_iter().filter(|leaf| *leaf <= greatest) {
        // Levels: threads of a core, cores of the package, and the end of the list.
        for (level, shift, count, kind) in
            [(0, 0, 1, 1), (1, bits, topology.count, 2), (2, 0, 0, 0)]
        {
            entries.push(kvm_cpuid_entry2 {
                function: leaf,
                index: level,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: kind << 8 | level,
                edx: index,
                ..Default::default()
            });
        }
    }
    entries
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

/// The last-level cache is everybody's, the others are each core's own.
fn share_cache(entry: &mut kvm_cpuid_entry2, count: u32) {
    let level = entry.eax >> 5 & 0x7;
    let sharing = if level >= 3 { count } else { 1 };
    entry.eax = entry.eax & !(0xfff << 14) | (sharing - 1) << 14;
}

/// A register of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }
}

/// Registers whose bits each stand for something that the guest may use, with the bits that do
/// not: those that follow the guest's own control registers, and those that say where it sits.
const FEATURES: &[(u32, u32, Register, u32)] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    &[
        (0x1, 0, Ecx, 1 << 27),          // OSXSAVE follows CR4
        (0x1, 0, Edx, 1 << 9 | 1 << 28), // APIC follows its base register; HTT is topology
        (0x6, 0, Eax, 0),
        (0x7, 0, Ebx, 0),
        (0x7, 0, Ecx, 1 << 4), // OSPKE follows CR4
        (0x7, 0, Edx, 0),
        (0x7, 1, Eax, 0),
        (0x7, 1, Ebx, 0),
        (0x7, 1, Ecx, 0),
        (0x7, 1, Edx, 0),
        (0x7, 2, Edx, 0),
        (0xd, 0, Eax, 0),
        (0xd, 0, Edx, 0),
        (0xd, 1, Eax, 0),
        (0xd, 1, Ecx, 0),
        (0xd, 1, Edx, 0),
        (0x14, 0, Ebx, 0),
        (0x14, 0, Ecx, 0),
        (0x1e, 1, Eax, 0),
        (0x24, 0, Ebx, 0),
        (0x4000_0001, 0, Eax, 0),
        (0x8000_0001, 0, Ecx, LEAF81_ECX_CMP_LEGACY),
        (0x8000_0001, 0, Edx, 1 << 9), // a copy of leaf 1's
        (0x8000_0007, 0, Edx, 0),
        (0x8000_0008, 0, Ebx, 0),
        (0x8000_000a, 0, Edx, 0),
        (0x8000_001f, 0, Eax, 0),
        (0x8000_0021, 0, Eax, 0),
        (0x8000_0021, 0, Ecx, 0),
    ]
};

/// Something that the guest's processor has and the one here would not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Feature bits.
    Features { leaf: u32, subleaf: u32, register: Register, bits: u32 },
    /// A property that has to be the same, or at least as much.
    Property { what: &'static str, guest: String, here: String },
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Features { leaf, subleaf, register, bits } => {
                let register = format!("{register:?}").to_lowercase();
                write!(f, "CPUID leaf {leaf:#x}")?;
                if matches!(leaf, 0x7 | 0xd | 0x14 | 0x1e | 0x24) {
                    write!(f, " subleaf {subleaf}")?;
                }
                let names = (0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit.to_string());
                let names: Vec<_> = names.collect();
                let plural = if names.len() == 1 { "" } else { "s" };
                write!(f, " {register}: the guest has bit{plural} {}", names.join(", "))
            }
            Self::Property { what, guest, here } => {
                write!(f, "{what}: the guest has {guest}, here it is {here}")
            }
        }
    }
}

fn entry(entries: &[kvm_cpuid_entry2], leaf: u32, subleaf: u32) -> kvm_cpuid_entry2 {
    let of_leaf = |e: &&kvm_cpuid_entry2| {
        e.function == leaf && (e.index == subleaf || e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0)
    };
    entries.iter().find(of_leaf).copied().unwrap_or_default()
}

/// Everything that the processor `guest` has and the one here has not: neither what this host gives
/// of itself (`here`), nor what KVM makes of the guest's CPUID when it is set (`set`). What is here
/// beyond that does not matter: a guest that runs has looked already.
pub(crate) fn lacks(
    guest: &[kvm_cpuid_entry2],
    here: &[kvm_cpuid_entry2],
    set: &[kvm_cpuid_entry2],
) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let vendor = |entries| {
        let e = entry(entries, 0, 0);
        let text: Vec<u8> = [e.ebx, e.edx, e.ecx].into_iter().flat_map(u32::to_le_bytes).collect();
        String::from_utf8_lossy(&text).into_owned()
    };
    if vendor(guest) != vendor(here) {
        lacks.push(Lack::Property {
            what: "processor vendor",
            guest: vendor(guest),
            here: vendor(here),
        });
    }
    for &(leaf, subleaf, register, ignored) in FEATURES {
        let has = |entries| register.of(&entry(entries, leaf, subleaf));
        let bits = has(guest) & !(has(here) & has(set)) & !ignored;
        if bits != 0 {
            lacks.push(Lack::Features { leaf, subleaf, register, bits });
        }
    }
    let width = |entries| entry(entries, 0x8000_0008, 0).eax & 0xff;
    if width(guest) > width(here) {
        lacks.push(Lack::Property {
            what: "width of physical addresses",
            guest: format!("{} bits", width(guest)),
            here: format!("{} bits", width(here)),
        });
    }
    let components =
        u64::from(entry(guest, 0xd, 0).eax) | u64::from(entry(guest, 0xd, 0).edx) << 32;
    for component in (2..63).filter(|c| components >> c & 1 == 1) {
        let place = |entries| {
            let e = entry(entries, 0xd, component);
            (e.eax, e.ebx)
        };
        let (guest, here) = (place(guest), place(here));
        if guest != here {
            let text = |(size, at)| format!("{size} bytes at {at}");
            lacks.push(Lack::Property {
                what: "layout of the XSAVE area",
                guest: format!("component {component} of {}", text(guest)),
                here: text(here),
            });
        }
    }
    lacks
}

/// The entries as KVM takes them; `None` when they are more than it does.
pub(crate) fn table(entries: &[kvm_cpuid_entry2]) -> Option<CpuId> {
    CpuId::from_entries(entries).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = regs;
        let flags =
            if matches!(function, 4 | 7 | 0xb | 0xd) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn intel() -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            leaf(1, 0, [0x0006_0000, 0xff12_0800, 1 << 21, 1 << 9]),
            leaf(4, 0, [0x0400_0121, 0, 0, 0]),
            leaf(4, 3, [0x7c00_8163, 0, 0, 0]),
            leaf(4, 4, [0; 4]),
            leaf(7, 0, [0, 0b111, 0, 0]),
            leaf(0xd, 0, [0b111, 0, 0, 0]),
            leaf(0xd, 2, [256, 576, 0, 0]),
            leaf(0x8000_0008, 0, [0x302e, 0, 0, 0]),
        ]
    }

    #[test]
    fn each_vcpu_finds_its_own_place_among_all() {
        for (count, index, bits) in [(1, 0, 0), (2, 1, 1), (5, 4, 3), (64, 63, 6)] {
            let topology = Topology { count, tsc_deadline: true };
            let entries = for_vcpu(&intel(), index, topology);
            let one = entry(&entries, 1, 0);
            assert_eq!(one.ebx, index << 24 | count << 16 | 0x0800);
            assert_eq!(one.ecx, 1 << 21 | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR);
            assert_eq!(one.edx & LEAF1_EDX_HTT != 0, count > 1);
            for leaf in [0xb, 0x1f] {
                let threads = entry(&entries, leaf, 0);
                assert_eq!(
                    (threads.eax, threads.ebx, threads.ecx, threads.edx),
                    (0, 1, 0x100, index)
                );
                let cores = entry(&entries, leaf, 1);
                assert_eq!(
                    (cores.eax, cores.ebx, cores.ecx, cores.edx),
                    (bits, count, 0x201, index)
                );
                assert_eq!(entry(&entries, leaf, 2).ecx, 2);
            }
            assert_eq!(entry(&entries, 4, 0).eax >> 14 & 0xfff, 0);
            assert_eq!(entry(&entries, 4, 3).eax >> 14 & 0xfff, count - 1);
            assert_eq!(entry(&entries, 4, 3).eax >> 26, (1 << bits) - 1);
        }
    }

    #[test]
    fn what_the_guest_has_and_the_host_has_not_is_named_by_leaf_register_and_bit() {
        let guest = intel();
        let mut here = intel();
        assert_eq!(lacks(&guest, &here, &guest), []);
        here[5].ebx = 0b1001;
        let found = lacks(&guest, &here, &guest);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "CPUID leaf 0x7 subleaf 0 ebx: the guest has bits 1, 2");
    }

    #[test]
    fn what_kvm_drops_when_it_is_set_counts_as_missing() {
        let guest = intel();
        let mut set = intel();
        set[5].ebx = 0b011;
        let found = lacks(&guest, &guest, &set);
        assert_eq!(found[0].to_string(), "CPUID leaf 0x7 subleaf 0 ebx: the guest has bit 2");
    }

    #[test]
    fn bits_that_follow_the_guests_own_registers_do_not_count() {
        let mut guest = intel();
        guest[1].ecx |= 1 << 27;
        guest[1].edx |= 1 << 28;
        assert_eq!(lacks(&guest, &intel(), &guest), []);
    }

    #[test]
    fn another_vendor_fewer_address_bits_and_another_xsave_layout_are_refused() {
        let guest = intel();
        let mut here = intel();
        here[0].ebx = 0x6874_7541;
        here[7].ebx = 832;
        here[8].eax = 0x3027;
        let found: Vec<_> = lacks(&guest, &here, &guest).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().any(|l| l.contains("component 2 of 256 bytes at 576")), "{found:?}");
    }
}
