//! How fast the pass under way goes, and what follows from that.

use crate::ram::PassTotals;
use crate::report::Progress;
use memory::PAGE_SIZE;
use std::time::Duration;

/// Too short a time says nothing.
const TELLING: Duration = Duration::from_millis(50);
/// So few bytes say nothing of the link.
const TELLING_BYTES: u64 = 1 << 20;

/// Adds what follows from the pass under way: how fast it goes, and how long the rest will take.
///
/// Each later pass is as much shorter than the one before as the guest writes slower than the link
/// takes, so together they are a geometric series.
pub(super) fn look_ahead(progress: &mut Progress, totals: PassTotals, elapsed: Duration) {
    if elapsed < TELLING || totals.seen == 0 {
        return;
    }
    let per_second = u128::from(totals.bytes) * 1_000_000_000 / elapsed.as_nanos();
    // So short a pass is over before it is as fast as the link.
    if progress.rate == 0 || totals.bytes >= TELLING_BYTES {
        progress.rate = whole(per_second);
    }
    let left = progress.pass_pages.saturating_sub(totals.seen);
    let rest = u128::from(left) * elapsed.as_nanos() / u128::from(totals.seen);
    let written = u128::from(progress.dirty_rate) * u128::from(PAGE_SIZE);
    let gained = per_second.saturating_sub(written);
    // Where hardly anything is gained, a pass more or less makes all the difference. A guest that
    // writes nothing gains everything, also while a pass has found nothing to send.
    progress.eta_ns = match written {
        _ if progress.stuck => None,
        0 => Some(whole(rest)),
        _ if gained * 20 < per_second || gained == 0 => None,
        _ => Some(whole(rest.saturating_mul(per_second) / gained)),
    };
    if let Some(eta) = &mut progress.eta_ns {
        *eta = eta.saturating_add(progress.predicted_blackout_ns);
    }
}

fn whole(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of a pass of 200 MiB, sent at 100 MiB/s.
    fn half(dirty_rate: u64, stuck: bool) -> Progress {
        let pages = (200 << 20) / PAGE_SIZE;
        let mut progress = Progress { pass_pages: pages, dirty_rate, stuck, ..Progress::default() };
        let totals = PassTotals { seen: pages / 2, bytes: 100 << 20, ..PassTotals::default() };
        look_ahead(&mut progress, totals, Duration::from_secs(1));
        progress
    }

    #[test]
    fn an_idle_guest_has_moved_when_the_pass_has_ended() {
        let progress = half(0, false);
        assert_eq!(progress.rate, 100 << 20);
        assert_eq!(progress.eta_ns, Some(1_000_000_000));
    }

    #[test]
    fn a_guest_that_writes_half_as_fast_as_the_link_takes_twice_the_time() {
        assert_eq!(half((50 << 20) / PAGE_SIZE, false).eta_ns, Some(2_000_000_000));
    }

    #[test]
    fn no_end_is_foretold_where_none_is_in_sight() {
        assert_eq!(half((98 << 20) / PAGE_SIZE, false).eta_ns, None);
        assert_eq!(half((300 << 20) / PAGE_SIZE, false).eta_ns, None);
        assert_eq!(half(0, true).eta_ns, None);
    }

    #[test]
    fn a_pass_that_has_just_begun_says_nothing() {
        let mut progress = Progress { rate: 7, ..Progress::default() };
        let totals = PassTotals { seen: 1, bytes: 4096, ..PassTotals::default() };
        look_ahead(&mut progress, totals, Duration::from_millis(1));
        assert_eq!((progress.rate, progress.eta_ns), (7, None));
    }
}
