//! One redirection entry, and the message that it stands for.

/// An interrupt message as a local APIC takes it (Intel SDM volume 3, "Message Signalled
/// Interrupts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address, which names the destination.
    pub address: u64,
    /// Data: vector, delivery mode, trigger mode.
    pub data: u32,
}

const LOCAL_APIC_MESSAGES: u64 = 0xfee0_0000;

const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 0x700;
const LOGICAL_DESTINATION: u64 = 1 << 11;
const POLARITY_LOW: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;

/// What the guest can write. Delivery status (bit 12) is always idle here, since messages do not
/// wait, and the rest is reserved.
const WRITABLE: u64 = VECTOR
    | DELIVERY_MODE
    | LOGICAL_DESTINATION
    | POLARITY_LOW
    | LEVEL
    | MASKED
    | 0xff << DESTINATION_SHIFT;

/// A redirection entry (82093AA data sheet 3.2.4).
///
/// Polarity is kept but has no effect: our lines say *active*, not high or low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    pub const RESET: Self = Self(MASKED);

    pub fn bits(self) -> u64 {
        self.0
    }

    /// The entry with exactly these bits, if it can have them.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let known = bits & !(WRITABLE | REMOTE_IRR) == 0;
        let in_service_by_level = bits & REMOTE_IRR == 0 || bits & LEVEL != 0;
        (known && in_service_by_level).then_some(Self(bits))
    }

    pub fn half(self, high: bool) -> u32 {
        let half = if high { self.0 >> 32 } else { self.0 & 0xffff_ffff };
        u32::try_from(half).expect("shifted or masked to 32 bits")
    }

    pub fn set_half(&mut self, high: bool, value: u32) {
        let (shift, other) = if high { (32, 0xffff_ffff) } else { (0, !0xffff_ffff) };
        let written = self.0 & other | u64::from(value) << shift;
        let remote_irr = self.0 & REMOTE_IRR;
        self.0 = written & WRITABLE;
        // An interrupt in service survives rewriting the entry, but an edge-triggered pin has
        // none: guests without an EOI register to write clear it by going to edge and back.
        if self.is_level() {
            self.0 |= remote_irr;
        }
    }

    pub fn vector(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    pub fn is_level(self) -> bool {
        self.0 & LEVEL != 0
    }

    pub fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub fn set_remote_irr(&mut self, set: bool) {
        self.0 = if set { self.0 | REMOTE_IRR } else { self.0 & !REMOTE_IRR };
    }

    pub fn message(self) -> MsiMessage {
        let destination = self.0 >> DESTINATION_SHIFT;
        let logical = u64::from(self.0 & LOGICAL_DESTINATION != 0);
        // Vector, delivery mode and trigger mode have the same places in both formats. Bit 14
        // of the data says "assert", which is what a level-triggered message always is.
        let data = self.0 & (VECTOR | DELIVERY_MODE | LEVEL) | (self.0 & LEVEL) >> 1;
        MsiMessage {
            address: LOCAL_APIC_MESSAGES | destination << 12 | logical << 2,
            data: u32::try_from(data).expect("masked to 16 bits"),
        }
    }
}
