//! kvmclock and the TSC on a journey: both go on by the time that the guest was away, or from where
//! they stopped, and never backwards.
//!
//! kvmclock is set together with the wall clock at which it was read (`KVM_CLOCK_REALTIME`), so
//! that KVM itself adds what has passed since. The TSC follows from what is added to the host's
//! TSC: on the same host it stays as it was; on another one it changes by what the two TSCs differ
//! at the same moment (the procedure of Linux `Documentation/virt/kvm/devices/vcpu.rst`, section
//! 4.1). Where time away does not count, the host's TSC has gone on and the guest's has not, which is
//! the same with nothing passed.

use crate::sys::io_error;
use crate::vcpu::tsc::OffsetChange;
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, kvm_clock_data};
use kvm_ioctls::{Cap, VmFd};
use minicbor::{Decode, Encode};
use rustix::time::{ClockId, clock_gettime};
use std::io;

/// The host's wall clock, in nanoseconds since 1970. A host whose clock stands before that has none.
pub(crate) fn wall_clock() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}

/// What tells one boot of one host from all others.
pub(crate) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// What becomes of a guest's clocks while it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GuestClock {
    /// They go on by the time that it is away: it was moved.
    #[default]
    Realtime,
    /// They go on where they stopped: days in a file are no stall.
    Continue,
}

impl GuestClock {
    /// The word for it on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Continue => "continue",
        }
    }
}

impl std::fmt::Display for GuestClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for GuestClock {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "realtime" => Ok(Self::Realtime),
            "continue" => Ok(Self::Continue),
            _ => Err(format!("`{text}` is nothing that a clock does: use continue or realtime")),
        }
    }
}

/// What a guest's clocks make of its journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    /// How the offset of its TSC changes.
    pub offset: OffsetChange,
    /// From this time of the wall clock to that one nothing passes for it.
    skipped: Option<(u64, u64)>,
    /// What the host's TSC was when the clocks stood that go on from there, where that is known.
    pub stood_at: Option<u64>,
}

/// How a counter that goes on differs from what was read of it, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lapse {
    /// It was read so much later than it goes on from.
    pub late: u64,
    /// So much has passed since.
    pub passed: u64,
}

impl Passage {
    /// What became of a counter, read at `read_at` of the wall clock, until `now`.
    ///
    /// Where nothing passes while the guest is away, kvmclock goes on from where it was read, and everything
    /// else from that moment, too: vCPUs are read one by one after it, which can take longer than it takes
    /// until they are set.
    pub fn lapse(&self, read_at: u64, now: u64) -> Lapse {
        match self.skipped {
            None => Lapse { late: 0, passed: now.saturating_sub(read_at) },
            Some((from, to)) => {
                Lapse { late: read_at.saturating_sub(from), passed: now.saturating_sub(to) }
            }
        }
    }
}

/// The machine's clocks while it travels.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedClock {
    /// kvmclock, in nanoseconds.
    #[n(0)]
    pub kvmclock: u64,
    /// The host's wall clock when kvmclock was read, in nanoseconds since 1970, as KVM says it.
    /// Absent where it does not.
    #[n(1)]
    pub realtime: Option<u64>,
    /// The host's TSC at that moment, where KVM says it.
    #[n(2)]
    pub host_tsc: Option<u64>,
    /// The host's wall clock, as the VMM read it just before.
    #[n(3)]
    pub wall_clock: u64,
    /// Frequency of the host's own TSC in kHz.
    #[n(4)]
    pub host_khz: u32,
    /// Which boot of which host this was.
    #[n(5)]
    pub boot_id: Option<String>,
}

impl state::Saved for SavedClock {
    const SCHEMA: &'static str = "whimbrel.clock";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Why the clocks could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("{action}: {source}")]
    Kvm {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "kvmclock would go backwards, from {before} ns to {after} ns: this KVM does not set it"
    )]
    Backwards { before: u64, after: u64 },
}

fn kvm(action: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> ClockError {
    move |e| ClockError::Kvm { action, source: io_error(e) }
}

/// This machine's clock, and what it needs to know of the host.
#[derive(Debug)]
pub(crate) struct Clock {
    /// KVM can be told the wall clock at which kvmclock was read.
    takes_realtime: bool,
    host_khz: u32,
    /// The guest's TSC counts as the host's does.
    unscaled: bool,
    boot_id: Option<String>,
}

impl Clock {
    /// The clock of `vm`, whose TSC counts `guest_khz` thousand times a second, on a host whose own
    /// counts `host_khz`.
    pub fn new(vm: &VmFd, host_khz: u32, guest_khz: u32) -> Self {
        let flags = u32::try_from(vm.check_extension_int(Cap::AdjustClock)).unwrap_or(0);
        Self {
            takes_realtime: flags & KVM_CLOCK_REALTIME != 0,
            host_khz,
            unscaled: guest_khz == host_khz,
            boot_id: boot_id(),
        }
    }

    /// The clocks as they stand.
    pub fn save(&self, vm: &VmFd) -> Result<SavedClock, ClockError> {
        let wall_clock = wall_clock();
        let now = vm.get_clock().map_err(kvm("KVM_GET_CLOCK"))?;
        let valid = |flag, value| (now.flags & flag != 0).then_some(value);
        Ok(SavedClock {
            kvmclock: now.clock,
            realtime: valid(KVM_CLOCK_REALTIME, now.realtime),
            host_tsc: valid(KVM_CLOCK_HOST_TSC, now.host_tsc),
            wall_clock,
            host_khz: self.host_khz,
            boot_id: self.boot_id.clone(),
        })
    }

    /// Sets kvmclock to what `saved` has become since, and says what that means for the TSC.
    pub fn restore(
        &self,
        vm: &VmFd,
        saved: &SavedClock,
        policy: GuestClock,
    ) -> Result<Passage, ClockError> {
        let SavedClock { kvmclock, realtime, host_tsc, wall_clock: read_at, host_khz, boot_id } =
            saved;
        let begun = wall_clock();
        let data = match (policy, *realtime) {
            (GuestClock::Continue, _) => kvm_clock_data { clock: *kvmclock, ..Default::default() },
            (GuestClock::Realtime, Some(realtime)) if self.takes_realtime => kvm_clock_data {
                clock: *kvmclock,
                flags: KVM_CLOCK_REALTIME,
                realtime,
                ..Default::default()
            },
            (GuestClock::Realtime, _) => {
                let away = begun.saturating_sub(*read_at);
                kvm_clock_data { clock: kvmclock.saturating_add(away), ..Default::default() }
            }
        };
        vm.set_clock(&data).map_err(kvm("KVM_SET_CLOCK"))?;
        let now = vm.get_clock().map_err(kvm("KVM_GET_CLOCK"))?;
        if now.clock < *kvmclock {
            return Err(ClockError::Backwards { before: *kvmclock, after: now.clock });
        }
        let skipped = (policy == GuestClock::Continue).then_some((*read_at, begun));
        let same_boot = boot_id.is_some() && *boot_id == self.boot_id;
        // Where a TSC is scaled, what the host's counts is not what the guest's counts.
        let comparable = self.unscaled && *host_khz == self.host_khz;
        let stays = same_boot && policy == GuestClock::Realtime;
        let offset = match *host_tsc {
            _ if stays => OffsetChange::Exactly(0),
            Some(then) if comparable && now.flags & KVM_CLOCK_HOST_TSC != 0 => {
                let passed = ticks(now.clock - kvmclock, self.host_khz);
                OffsetChange::Exactly(offset_change(then, now.host_tsc, passed))
            }
            _ => OffsetChange::Unknown,
        };
        let stood_at = host_tsc.filter(|_| !stays);
        Ok(Passage { offset, skipped, stood_at })
    }
}

/// How the offset of a guest's TSC changes from a host whose TSC stood at `there` to one where it
/// stands at `here`, `passed` ticks later.
fn offset_change(there: u64, here: u64, passed: u64) -> u64 {
    there.wrapping_add(passed).wrapping_sub(here)
}

/// How often a clock of `khz` ticks in `nanoseconds`.
pub(crate) fn ticks(nanoseconds: u64, khz: u32) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(khz) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_counted_without_overflow() {
        assert_eq!(ticks(1_000_000, 2_500_000), 2_500_000);
        assert_eq!(ticks(u64::MAX, u32::MAX), u64::MAX);
        assert_eq!(ticks(1, 999_999), 0);
    }

    #[test]
    fn a_policy_is_a_word_and_back() {
        for policy in [GuestClock::Realtime, GuestClock::Continue] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("stop".parse::<GuestClock>().is_err());
    }

    #[test]
    fn what_was_skipped_has_not_passed() {
        let passage = |skipped| Passage { offset: OffsetChange::Unknown, skipped, stood_at: None };
        let moved = passage(None);
        assert_eq!(moved.lapse(1_000, 1_900), Lapse { late: 0, passed: 900 });
        // Saved at 1000, its TSC read 7 ns later, restored at 900,000.
        let restored = passage(Some((1_000, 900_000)));
        assert_eq!(restored.lapse(1_007, 900_002), Lapse { late: 7, passed: 2 });
        // Restored on a host whose wall clock is behind.
        let back = passage(Some((1_000, 10)));
        assert_eq!(back.lapse(1_007, 30), Lapse { late: 7, passed: 20 });
    }

    proptest! {
        #[test]
        fn a_tsc_goes_on_by_what_has_passed_whatever_the_hosts_count(
            there: u64, here: u64, offset: u64, passed in 0u64..1 << 50,
        ) {
            let guest_there = there.wrapping_add(offset);
            let new_offset = offset.wrapping_add(offset_change(there, here, passed));
            let guest_here = here.wrapping_add(new_offset);
            prop_assert_eq!(guest_here, guest_there.wrapping_add(passed));
        }
    }
}
