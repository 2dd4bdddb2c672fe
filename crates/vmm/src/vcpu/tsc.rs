//! The guest's time stamp counter.

use super::{StateError, Vcpu, msr};
use crate::clock::{Lapse, Passage, ticks, wall_clock};
use crate::sys;
use std::io;

/// How what is added to the host's TSC has to change for the guest's to have gone on by the time
/// that it was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffsetChange {
    /// By this much, modulo 2^64.
    Exactly(u64),
    /// The hosts do not say enough: the guest's TSC is set from the wall clock instead.
    Unknown,
}

/// More than this, in nanoseconds, and what KVM made of the TSC is worth a warning. A host under load
/// may let this much time pass between reading the guest's TSC and its wall clock when they are saved.
const TOLERANCE: u64 = 100_000_000;

impl Vcpu {
    /// The guest's TSC now.
    pub fn tsc(&self) -> io::Result<u64> {
        let values = msr::read(&self.fd, &[msr::IA32_TSC])?;
        values.first().map(|(_, value)| *value).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Has the guest's TSC go on from where it was saved, by what has passed for it since, and says
    /// whether it does: some KVMs ignore what they are told, and then the guest has the host's TSC.
    pub fn restore_tsc(
        &self,
        saved: &super::SavedVcpu,
        passage: &Passage,
    ) -> Result<bool, StateError> {
        let failed = |action| move |source| StateError::Kvm { action, source };
        let expected = |now: u64| {
            let Lapse { late, passed } = passage.lapse(saved.tsc_read_at, now);
            let stood = saved.tsc.saturating_sub(ticks(late, self.tsc_khz));
            (stood, stood.saturating_add(ticks(passed, self.tsc_khz)))
        };
        let stood = match (saved.tsc_offset, passage.offset, self.tsc_offset()) {
            (Some(then), OffsetChange::Exactly(change), Some(now)) => {
                let wanted = then.wrapping_add(change);
                if now != wanted {
                    sys::set_tsc_offset(&self.fd, wanted).map_err(failed("KVM_VCPU_TSC_OFFSET"))?;
                }
                passage.stood_at.map_or(saved.tsc, |host| host.wrapping_add(then))
            }
            _ => {
                let (stood, now) = expected(wall_clock());
                msr::write(&self.fd, &[(msr::IA32_TSC, now)])?;
                stood
            }
        };
        // However long this thread was kept waiting, it was read between the two.
        let (_, least) = expected(wall_clock());
        let now = self.tsc().map_err(failed("reading the TSC"))?;
        let (_, most) = expected(wall_clock());
        // What the guest has seen it be is no more than where it stood when the guest had stopped.
        if now < stood {
            return Err(StateError::Malformed {
                part: "TSC",
                reason: format!(
                    "stood at {stood} and would go back to {now}: this KVM does not let it be set"
                ),
            });
        }
        let tolerance = ticks(TOLERANCE, self.tsc_khz);
        Ok((least.saturating_sub(tolerance)..=most.saturating_add(tolerance)).contains(&now))
    }

    /// Arms the timer that waits for the guest's TSC, which is set by now.
    pub fn arm_timer(&self, saved: &super::SavedVcpu) -> Result<(), StateError> {
        let deadline = saved.msrs.iter().find(|(index, _)| *index == msr::IA32_TSC_DEADLINE);
        if let Some(deadline) = deadline.filter(|(_, at)| *at != 0) {
            msr::write(&self.fd, &[*deadline])?;
        }
        Ok(())
    }
}
