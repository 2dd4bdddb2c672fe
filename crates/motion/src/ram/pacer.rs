//! Keeping a bandwidth limit.

use crate::clock::Moment;
use memory::PAGE_SIZE;
use std::num::NonZeroU64;
use std::time::Duration;

/// Tells senders how long to wait so that together they keep a limit. Pure: it is told the time.
///
/// Each piece is put on a schedule at the limit's rate; who is ahead of it waits. A sender that
/// was held up may catch up by no more than [`Pacer::SLACK`], so that the limit holds over any
/// second and not only on the average.
#[derive(Debug, Clone, Default)]
pub struct Pacer {
    limit: Option<NonZeroU64>,
    /// When what was granted so far will have been sent at the limit's rate.
    scheduled: Moment,
}

impl Pacer {
    /// How much of an idle time may be made up for.
    const SLACK: Duration = Duration::from_millis(20);
    /// The longest that one piece may take at the limit's rate, so that a new limit, or a cancel,
    /// is noticed soon.
    const PIECE: Duration = Duration::from_millis(10);

    /// Keeps `limit` bytes per second; `None` is unlimited.
    #[must_use]
    pub fn new(limit: Option<NonZeroU64>) -> Self {
        Self { limit, scheduled: Moment::default() }
    }

    /// Keeps another limit from now on.
    pub fn set_limit(&mut self, limit: Option<NonZeroU64>, now: Moment) {
        self.limit = limit;
        self.scheduled = self.scheduled.min(now);
    }

    /// The limit in bytes per second.
    #[must_use]
    pub fn limit(&self) -> Option<NonZeroU64> {
        self.limit
    }

    /// How many pages are worth sending as one piece, at most `most`.
    #[must_use]
    pub fn piece(&self, most: u64) -> u64 {
        let Some(limit) = self.limit else { return most };
        let bytes = u128::from(limit.get()) * Self::PIECE.as_nanos() / 1_000_000_000;
        u64::try_from(bytes / u128::from(PAGE_SIZE)).unwrap_or(u64::MAX).clamp(1, most)
    }

    /// How long to wait before sending these bytes.
    pub fn grant(&mut self, bytes: u64, now: Moment) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        let earliest = Moment(now.0.saturating_sub(crate::clock::nanos(Self::SLACK)));
        let start = self.scheduled.max(earliest);
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(limit.get());
        self.scheduled = Moment(start.0.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX)));
        start.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_limit_is_kept_over_any_second(
            limit in 1_000_000u64..10_000_000_000,
            pieces in proptest::collection::vec((1u64..64, 0u64..30_000_000), 1..400),
        ) {
            let mut pacer = Pacer::new(NonZeroU64::new(limit));
            let mut now = Moment(1_000_000_000);
            let mut sent = Vec::new();
            for (pages, idle) in pieces {
                now = now.after(Duration::from_nanos(idle));
                let pages = pacer.piece(pages);
                now = now.after(pacer.grant(pages * 4096, now));
                sent.push((now, pages * 4096));
            }
            for (i, (from, _)) in sent.iter().enumerate() {
                let end = from.after(Duration::from_secs(1));
                let bytes: u64 =
                    sent[i..].iter().take_while(|(at, _)| *at < end).map(|(_, b)| b).sum();
                // What may be made up for, and the one piece that is always allowed.
                let allowed = limit + limit / 50 + limit / 100 + 4096;
                prop_assert!(bytes <= allowed, "{bytes} bytes in a second at {limit}");
            }
        }
    }

    #[test]
    fn a_busy_sender_gets_what_the_limit_allows() {
        let mut pacer = Pacer::new(NonZeroU64::new(100_000_000));
        let (mut now, mut sent) = (Moment(5_000_000_000), 0);
        let end = now.after(Duration::from_secs(1));
        while now < end {
            let bytes = pacer.piece(64) * 4096;
            now = now.after(pacer.grant(bytes, now));
            sent += bytes;
        }
        assert!((95_000_000..=105_000_000).contains(&sent), "{sent}");
    }
}
