//! The two pages that are written after all the others: the mark of completeness, and the claim.

use crate::Damage;
use crate::bytes::{array_at, is_sealed, put, put_text, seal, text_at, u32_at, u64_at};
use crate::places::PAGE;
use uuid::Uuid;

const COMMIT_MAGIC: [u8; 8] = *b"WHIMDONE";
const CLAIM_MAGIC: [u8; 8] = *b"WHIMCLAI";
const CHECKSUM: usize = 8;
const SNAPSHOT: usize = 16;

// The rest of the mark of completeness.
const HEADER_SUM: usize = 32;
const SECTIONS_SUM: usize = 36;
const COMPLETED: usize = 40;

// The rest of the claim.
const TIME: usize = 32;
const BOOT: usize = 40;
const TOKEN: usize = 56;
const HOST: usize = 128;
const HOST_ROOM: usize = 260;

/// The mark of completeness. It holds only for the header and the table of sections for which it was
/// made, and these for all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Identity of the snapshot.
    pub snapshot: Uuid,
    /// CRC-32C of the header page.
    pub header: u32,
    /// CRC-32C of the page that holds the table of sections.
    pub sections: u32,
    /// When the snapshot was complete, in nanoseconds since 1970 (UTC).
    pub completed: u64,
}

impl Commit {
    pub(crate) fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        put(&mut page, 0, &COMMIT_MAGIC);
        put(&mut page, SNAPSHOT, self.snapshot.as_bytes());
        put(&mut page, HEADER_SUM, &self.header.to_le_bytes());
        put(&mut page, SECTIONS_SUM, &self.sections.to_le_bytes());
        put(&mut page, COMPLETED, &self.completed.to_le_bytes());
        seal(&mut page, CHECKSUM);
        page
    }

    /// Reads its page; `None` where nothing was written.
    pub(crate) fn decode(page: &[u8]) -> Result<Option<Self>, Damage> {
        if page.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if page[..COMMIT_MAGIC.len()] != COMMIT_MAGIC || !is_sealed(page, CHECKSUM) {
            return Err(Damage::Checksum("the mark of completeness"));
        }
        Ok(Some(Self {
            snapshot: Uuid::from_bytes(array_at(page, SNAPSHOT)),
            header: u32_at(page, HEADER_SUM),
            sections: u32_at(page, SECTIONS_SUM),
            completed: u64_at(page, COMPLETED),
        }))
    }
}

/// Who continued the guest of a `save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Name of the host, at most 256 bytes.
    pub host: String,
    /// The host's boot id: `/proc/sys/kernel/random/boot_id`.
    pub boot: Uuid,
    /// When, in nanoseconds since 1970 (UTC).
    pub time: u64,
    /// Token of the handover.
    pub token: [u8; 16],
}

impl Claim {
    /// Its page in this snapshot; `None` when the host's name is too long.
    pub(crate) fn page(&self, snapshot: Uuid) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        put(&mut page, 0, &CLAIM_MAGIC);
        put(&mut page, SNAPSHOT, snapshot.as_bytes());
        put(&mut page, TIME, &self.time.to_le_bytes());
        put(&mut page, BOOT, self.boot.as_bytes());
        put(&mut page, TOKEN, &self.token);
        if !put_text(&mut page, HOST, HOST_ROOM, &self.host) {
            return None;
        }
        seal(&mut page, CHECKSUM);
        Some(page)
    }

    /// Reads its page in this snapshot; `None` where nothing was written.
    pub(crate) fn decode(page: &[u8], snapshot: Uuid) -> Result<Option<Self>, Damage> {
        if page.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if page[..CLAIM_MAGIC.len()] != CLAIM_MAGIC || !is_sealed(page, CHECKSUM) {
            return Err(Damage::Checksum("the claim record"));
        }
        if array_at(page, SNAPSHOT) != *snapshot.as_bytes() {
            return Err(Damage::Nonsense(
                "the claim record",
                "it is another snapshot's".to_owned(),
            ));
        }
        let host = text_at(page, HOST, HOST_ROOM).ok_or_else(|| {
            Damage::Nonsense("the claim record", "the host's name is no text".to_owned())
        })?;
        Ok(Some(Self {
            host: host.to_owned(),
            boot: Uuid::from_bytes(array_at(page, BOOT)),
            time: u64_at(page, TIME),
            token: array_at(page, TOKEN),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_read_as_they_were_written(
            host in ".{0,64}", boot: u128, time: u64, token: [u8; 16], id: u128, sums: (u32, u32),
        ) {
            let snapshot = Uuid::from_u128(id);
            let commit = Commit { snapshot, header: sums.0, sections: sums.1, completed: time };
            prop_assert_eq!(Commit::decode(&commit.page()), Ok(Some(commit)));
            let claim = Claim { host, boot: Uuid::from_u128(boot), time, token };
            let page = claim.page(snapshot).unwrap();
            prop_assert_eq!(Claim::decode(&page, snapshot), Ok(Some(claim)));
            prop_assert!(Claim::decode(&page, Uuid::from_u128(id ^ 1)).is_err());
            prop_assert!(Commit::decode(&page).is_err());
        }
    }

    #[test]
    fn nothing_written_is_no_record_and_a_torn_one_is_damage() {
        let snapshot = Uuid::from_u128(1);
        assert_eq!(Commit::decode(&[0; PAGE]), Ok(None));
        assert_eq!(Claim::decode(&[0; PAGE], snapshot), Ok(None));
        let claim = Claim { host: "h".into(), boot: Uuid::nil(), time: 1, token: [2; 16] };
        let mut page = claim.page(snapshot).unwrap();
        page[128..].fill(0);
        assert!(Claim::decode(&page, snapshot).is_err());
        let long = Claim { host: "h".repeat(257), ..claim };
        assert!(long.page(snapshot).is_none());
    }
}
