//! Kernel structures as bytes, for the journey.
//!
//! The layout of these structures is the kernel's ABI, so they travel as they are; what is checked
//! is their length, and the kernel checks their contents when it is given them.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs2, kvm_vcpu_events,
};

/// A kernel structure that is nothing but its bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding (explicit padding fields are fields), holds no pointer,
/// and every pattern of bits is a valid value.
pub(crate) unsafe trait Abi: Copy {
    /// The value as it lies in memory.
    fn to_bytes(&self) -> Vec<u8> {
        // SAFETY: without padding every byte is initialised; the slice does not outlive `self`.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(self).cast::<u8>(), size_of::<Self>())
        };
        bytes.to_vec()
    }

    /// The value that these bytes are, if they are as many as it has.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == size_of::<Self>()).then(|| {
            // SAFETY: the length was checked, any bits are a valid value, and an unaligned read
            // asks nothing of the address.
            unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
        })
    }
}

macro_rules! abi {
    ($($name:ty: $size:literal = $($part:expr)=>+;)+) => {$(
        const _: () = assert!(size_of::<$name>() == $size && $(($part) +)+ 0 == $size);
        // SAFETY: `repr(C)` from the kernel's headers, integers only; the sum of its fields is its
        // size, so there is no padding.
        unsafe impl Abi for $name {}
    )+};
}

abi! {
    kvm_regs: 144 = 18 * 8;
    kvm_sregs2: 320 = 8 * size_of::<kvm_segment>() => 2 * size_of::<kvm_dtable>() => 12 * 8;
    kvm_debugregs: 128 = 16 * 8;
    kvm_lapic_state: 1024 = 1024;
    kvm_vcpu_events: 64 = 8 => 4 => 4 => 4 => 4 => 4 => 1 => 26 => 1 => 8;
}
const _: () = assert!(size_of::<kvm_segment>() == 8 + 4 + 2 + 10);
const _: () = assert!(size_of::<kvm_dtable>() == 8 + 2 + 6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_is_its_bytes_and_nothing_else_is_it() {
        let regs = kvm_regs { rax: 1, rflags: u64::MAX, ..Default::default() };
        let bytes = regs.to_bytes();
        assert_eq!(bytes[..8], 1u64.to_le_bytes());
        assert_eq!(kvm_regs::from_bytes(&bytes), Some(regs));
        for len in [0, 143, 145] {
            assert_eq!(kvm_regs::from_bytes(&vec![0; len]), None, "{len}");
        }
    }
}
