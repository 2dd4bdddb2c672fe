//! When something that nobody has heard is said again.

use std::time::Duration;

/// Between two attempts to reach somebody who has to be told, or asked, something: so long at first.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// And so long at most.
const SELDOM: Duration = Duration::from_secs(30);

/// How long to wait before the next attempt, where nobody was reached for `so_far`: an eighth of that. So
/// whoever comes back is not kept waiting for much longer than it was away, and whoever never does costs
/// next to nothing.
pub(crate) fn pause_after(so_far: Duration) -> Duration {
    (so_far / 8).clamp(SOON, SELDOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attempts within so long.
    fn attempts(time: Duration) -> u32 {
        let (mut so_far, mut attempts) = (Duration::ZERO, 0);
        while so_far < time {
            so_far += pause_after(so_far);
            attempts += 1;
        }
        attempts
    }

    #[test]
    fn it_is_tried_ever_more_seldom_and_never_given_up() {
        let seconds = Duration::from_secs;
        assert_eq!(pause_after(Duration::ZERO), seconds(1));
        assert_eq!(pause_after(seconds(8)), seconds(1));
        assert_eq!(pause_after(seconds(80)), seconds(10));
        assert_eq!(pause_after(seconds(240)), seconds(30));
        assert_eq!(pause_after(Duration::MAX), seconds(30));
        assert!(attempts(seconds(300)) < 50);
        assert!((120..130).contains(&(attempts(seconds(4200)) - attempts(seconds(600)))));
    }
}
