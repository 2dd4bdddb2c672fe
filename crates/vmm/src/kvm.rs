//! `/dev/kvm`: what it must offer, and what it says about this host.

use crate::sys;
use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use state::Code;
use std::ffi::CStr;
use std::io;

/// What a machine cannot do without, by the name in Linux `Documentation/virt/kvm/api.rst`.
const REQUIRED: [(u32, &str); 16] = [
    (kvm_bindings::KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
    (kvm_bindings::KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"),
    (kvm_bindings::KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"),
    (kvm_bindings::KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"),
    (kvm_bindings::KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"),
    (kvm_bindings::KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"),
    (kvm_bindings::KVM_CAP_XSAVE, "KVM_CAP_XSAVE"),
    (kvm_bindings::KVM_CAP_XCRS, "KVM_CAP_XCRS"),
    (kvm_bindings::KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"),
    (kvm_bindings::KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"),
    (kvm_bindings::KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"),
    (kvm_bindings::KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (kvm_bindings::KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"),
    (kvm_bindings::KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"),
    (kvm_bindings::KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"),
    (kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"),
];

/// Why `/dev/kvm` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such device.
    #[error(
        "/dev/kvm does not exist: load the module for this processor (modprobe kvm_intel, or \
         modprobe kvm_amd). If that fails, enable virtualisation (VT-x or AMD-V/SVM) in the \
         firmware, or nested virtualisation in the hypervisor that this host itself runs under"
    )]
    Missing,
    /// It is there and may not be opened.
    #[error(
        "/dev/kvm may not be opened by this user: add the user to the group that owns it \
         (usermod -aG kvm $USER, then log in anew), or run as root"
    )]
    Denied,
    /// Opening it failed for another reason.
    #[error("/dev/kvm could not be opened: {0}")]
    Failed(#[source] io::Error),
    /// Not the interface of every Linux since 2.6.22.
    #[error("/dev/kvm speaks version {0} of its interface, and {KVM_API_VERSION} is needed")]
    Version(i32),
    /// The host's kernel is too old, or its KVM was built without.
    #[error("this host's KVM does not have {0}: Linux 5.10 or later on x86_64 is needed")]
    Capability(&'static str),
    /// It does not say what it supports.
    #[error("KVM does not say {what}: {source}")]
    Query {
        /// What it was asked.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The machine-readable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Query { .. } => Code::Kvm,
            _ => Code::NoKvm,
        }
    }
}

/// The host's hypervisor, opened and found fit.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
    supported: CpuId,
    msrs: Vec<u32>,
}

impl Hypervisor {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_at(c"/dev/kvm")
    }

    fn open_at(device: &CStr) -> Result<Self, OpenError> {
        let kvm = Kvm::new_with_path(device).map_err(|e| match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => OpenError::Missing,
            libc::EACCES | libc::EPERM => OpenError::Denied,
            _ => OpenError::Failed(sys::io_error(e)),
        })?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(OpenError::Version(version));
        }
        let lacks = |(cap, _): &&(u32, _)| kvm.check_extension_raw((*cap).into()) <= 0;
        if let Some((_, name)) = REQUIRED.iter().find(lacks) {
            return Err(OpenError::Capability(name));
        }
        let query = |what| move |e| OpenError::Query { what, source: sys::io_error(e) };
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(query("which CPUID it supports"))?;
        let msrs = kvm.get_msr_index_list().map_err(query("which MSRs a vCPU has"))?;
        Ok(Self { msrs: msrs.as_slice().to_vec(), kvm, supported })
    }

    /// The device itself.
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Whether the host has this optional capability.
    pub(crate) fn has(&self, cap: Cap) -> bool {
        self.kvm.check_extension(cap)
    }

    /// The CPUID that KVM can give to a guest (`KVM_GET_SUPPORTED_CPUID`).
    pub(crate) fn supported_cpuid(&self) -> &CpuId {
        &self.supported
    }

    /// The MSRs that make up a vCPU's state (`KVM_GET_MSR_INDEX_LIST`).
    pub(crate) fn msrs(&self) -> &[u32] {
        &self.msrs
    }

    /// Most vCPUs that a machine can have here.
    #[must_use]
    pub fn most_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_says_what_a_vcpu_consists_of() {
        let hypervisor = Hypervisor::open().unwrap();
        assert!(!hypervisor.msrs().is_empty());
        assert!(!hypervisor.supported_cpuid().as_slice().is_empty());
        assert!(hypervisor.most_vcpus() >= 64);
    }

    #[test]
    fn what_is_not_there_or_is_no_hypervisor_is_an_error() {
        let open = |path| Hypervisor::open_at(path).unwrap_err();
        assert!(matches!(open(c"/nowhere/kvm"), OpenError::Missing));
        assert!(matches!(open(c"/dev/null"), OpenError::Version(_)));
        assert!(matches!(open(c"/"), OpenError::Failed(_)));
    }

    #[test]
    fn every_error_says_what_to_do() {
        assert!(OpenError::Missing.to_string().contains("modprobe"));
        assert!(OpenError::Denied.to_string().contains("usermod -aG kvm"));
        assert_eq!(OpenError::Denied.code(), Code::NoKvm);
    }
}
