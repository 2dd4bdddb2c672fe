//! Dispatch of port I/O and MMIO accesses to devices by address.

use crate::lock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A device that answers for a range of addresses. Offsets count in bytes from the range's start.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on a bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range is empty or goes beyond the bus's last address.
    #[error("{name} cannot have {length:#x} bytes at {base:#x} of the {bus} bus: no such range")]
    NoSuchRange {
        /// The bus.
        bus: &'static str,
        /// The device to be added.
        name: &'static str,
        /// First address of the range.
        base: u64,
        /// Length of the range in bytes.
        length: u64,
    },
    /// Another device answers there.
    #[error("{name} cannot have {base:#x} of the {bus} bus: {other} is at {other_base:#x}")]
    Overlap {
        /// The bus.
        bus: &'static str,
        /// The device to be added.
        name: &'static str,
        /// First address of the range.
        base: u64,
        /// The device that is there.
        other: &'static str,
        /// First address of its range.
        other_base: u64,
    },
}

struct Slot {
    name: &'static str,
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// An address space with devices in it.
///
/// What no device claims reads as all ones and swallows writes, as on hardware: guests probe. An
/// access that starts in a device and ends outside of it is nobody's.
pub struct Bus {
    name: &'static str,
    last: u64,
    slots: BTreeMap<u64, Slot>,
    unclaimed: AtomicU64,
}

impl Bus {
    /// The 64 Ki I/O ports of x86.
    #[must_use]
    pub fn ports() -> Self {
        Self::new("port", 0xffff)
    }

    /// Guest-physical addresses that are not RAM.
    #[must_use]
    pub fn mmio() -> Self {
        Self::new("mmio", u64::MAX)
    }

    fn new(name: &'static str, last: u64) -> Self {
        Self { name, last, slots: BTreeMap::new(), unclaimed: AtomicU64::new(0) }
    }

    /// Puts a device on the bus.
    ///
    /// # Errors
    /// [`BusError`] when the range is not free.
    pub fn insert(
        &mut self,
        name: &'static str,
        base: u64,
        length: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let end = length.checked_sub(1).and_then(|above| base.checked_add(above));
        let end = end.filter(|end| *end <= self.last).ok_or(BusError::NoSuchRange {
            bus: self.name,
            name,
            base,
            length,
        })?;
        // Ranges do not overlap, so the last one that starts at or below our end decides.
        if let Some((&other_base, other)) = self.slots.range(..=end).next_back()
            && other_base + (other.length - 1) >= base
        {
            let (bus, other) = (self.name, other.name);
            return Err(BusError::Overlap { bus, name, base, other, other_base });
        }
        self.slots.insert(base, Slot { name, length, device });
        Ok(())
    }

    /// A guest's read of `data.len()` bytes at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((slot, offset)) => lock(&slot.device).read(offset, data),
            None => {
                data.fill(0xff);
                self.trace("read", address, data.len());
            }
        }
    }

    /// A guest's write of `data` at `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((slot, offset)) => lock(&slot.device).write(offset, data),
            None => self.trace("write", address, data.len()),
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(&Slot, u64)> {
        let (base, slot) = self.slots.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        (end <= slot.length).then_some((slot, offset))
    }

    /// A guest that probes or polls must not fill the log: the first accesses are told, and then
    /// ever fewer.
    fn trace(&self, what: &str, address: u64, length: usize) {
        let count = self.unclaimed.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= 16 || count.is_power_of_two() {
            tracing::debug!(bus = self.name, address, length, count, "unclaimed {what}");
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.slots.iter().map(|(base, slot)| (base, (slot.name, slot.length)));
        f.debug_map().entries(ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Recorder {
        last: Option<(u64, Vec<u8>)>,
    }
    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset & 0x7f).unwrap());
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.last = Some((offset, data.to_vec()));
        }
    }

    fn device() -> Arc<Mutex<Recorder>> {
        Arc::default()
    }

    #[test]
    fn an_access_reaches_the_device_at_its_offset() {
        let (mut bus, dev) = (Bus::ports(), device());
        bus.insert("dev", 0x3f8, 8, dev.clone()).unwrap();
        let mut byte = [0];
        bus.read(0x3fd, &mut byte);
        assert_eq!(byte, [5]);
        bus.write(0x3f9, &[7, 8]);
        assert_eq!(dev.lock().unwrap().last, Some((1, vec![7, 8])));
    }

    #[test]
    fn what_nobody_claims_reads_as_all_ones() {
        let (mut bus, dev) = (Bus::mmio(), device());
        bus.insert("dev", 0x1000, 0x10, dev.clone()).unwrap();
        for address in [0, 0xfff, 0x100d, 0x1010, u64::MAX - 1, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
            bus.write(address, &data);
        }
        assert_eq!(dev.lock().unwrap().last, None);
    }

    #[test]
    fn a_range_beyond_the_bus_is_an_error() {
        let mut bus = Bus::ports();
        for (base, length) in [(0xffff, 2), (0, 0), (u64::MAX, 2), (0x1_0000, 1)] {
            let error = bus.insert("dev", base, length, device()).unwrap_err();
            assert!(matches!(error, BusError::NoSuchRange { .. }), "{base:#x} {length:#x}");
        }
        bus.insert("dev", 0, 0x1_0000, device()).unwrap();
    }

    proptest! {
        #[test]
        fn a_range_is_refused_exactly_when_it_overlaps(
            ranges in proptest::collection::vec((0u64..64, 1u64..16), 1..12),
        ) {
            let mut bus = Bus::ports();
            let mut taken = [false; 128];
            for (base, length) in ranges {
                let cells = usize::try_from(base).unwrap()..usize::try_from(base + length).unwrap();
                let free = !taken[cells.clone()].contains(&true);
                prop_assert_eq!(bus.insert("dev", base, length, device()).is_ok(), free);
                if free {
                    taken[cells].fill(true);
                }
            }
        }
    }
}
