//! What is against taking a guest from a file, before anything is built.

use super::Terms;
use crate::MotionError;
use crate::handover::{Entitlement, Token};
use snapshot::{Claim, Damage, Kind, Reader};
use state::{Code, Refusal};
use std::time::{Duration, SystemTime};

/// What the file entitles to, on these terms.
///
/// # Errors
/// [`Code::SnapshotClaimed`] for a saved guest that was continued already, saying where and when;
/// [`Code::HostIo`] for one that cannot be claimed because its file cannot be written.
pub fn admit(reader: &Reader, terms: Terms) -> Result<Entitlement, MotionError> {
    match (reader.header().kind, terms) {
        (Kind::Save, Terms::Clone) if reader.apart().is_some() => {
            let why = "its RAM is in a memory file, which a copy of the guest cannot share";
            let advice = "leave --clone out, and take a snapshot of the guest once it runs";
            let refusal = Refusal::new(Code::SnapshotUnsupported, "ram", why, advice);
            return Err(MotionError::refused(vec![refusal]));
        }
        (Kind::Snapshot, _) | (Kind::Save, Terms::Clone) => return Ok(Entitlement::Copies),
        (Kind::Save, Terms::Reclaim) => {}
        (Kind::Save, Terms::AsSaved) => {
            let against = match (reader.claim(), reader.claim_damage()) {
                (None, None) => None,
                (Some(claim), _) => Some(claimed(claim)),
                (None, Some(damage)) => Some(maybe_claimed(damage)),
            };
            if let Some(refusal) = against {
                return Err(MotionError::refused(vec![refusal]));
            }
        }
    }
    reader.can_claim()?;
    Ok(Entitlement::Once)
}

const ADVICE: &str = "the guest is there, or was, and its disks have moved on: --clone makes an \
                      independent copy, --reclaim goes back to what was saved all the same";

fn claimed(claim: &Claim) -> Refusal {
    let Claim { host, boot, time, token } = claim;
    let why = format!(
        "its guest was continued on host {host} {} (boot {boot}, token {})",
        ago(*time),
        Token(*token)
    );
    Refusal::new(Code::SnapshotClaimed, "claim", why, ADVICE)
}

fn maybe_claimed(damage: &Damage) -> Refusal {
    let why = format!("its guest may have been continued already: {damage}");
    Refusal::new(Code::SnapshotClaimed, "claim", why, ADVICE)
}

/// How long ago something was, by this host's clock, in words.
fn ago(nanoseconds: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    let seconds = match SystemTime::now().duration_since(then) {
        Ok(since) => since.as_secs(),
        Err(_) => return "at a time that this host's clock has yet to reach".to_owned(),
    };
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_largest_unit() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let before = |seconds| {
            let then = now.checked_sub(Duration::from_secs(seconds)).unwrap();
            ago(u64::try_from(then.as_nanos()).unwrap())
        };
        // Half a unit more, so that no time in between matters.
        assert_eq!(before(90), "1 minute ago");
        assert_eq!(before(5 * 3600 / 2), "2 hours ago");
        assert_eq!(before(60 * 3600), "2 days ago");
        assert!(ago(u64::MAX).contains("yet to reach"));
    }
}
