//! Pages on the wire: a table of runs, then the contents of those that have any.

use crate::{FrameError, Header, Kind};
use memory::PageRange;

/// The most pages with contents that one frame announces: what may be in flight as one piece.
pub const MOST_DATA_PAGES: u64 = 512;
/// The most runs that one frame announces.
pub const MOST_RUNS: usize = 1024;

const FIXED: usize = 8;
const RUN: usize = 16;
/// Length of the longest table in bytes.
#[expect(clippy::cast_possible_truncation, reason = "8 + 1024 × 16")]
pub(crate) const LONGEST_HEADER: u32 = (FIXED + MOST_RUNS * RUN) as u32;

/// What a run of pages holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Its bytes follow the frame.
    Data,
    /// Nothing but zeroes.
    Zero,
}

/// One run of pages of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which pages, by number within the RAM file.
    pub range: PageRange,
    /// What they hold.
    pub content: Content,
}

/// The body of a [`Kind::Pages`] frame. The contents of its data runs follow, in order, without
/// gaps.
///
/// On the wire, little-endian: pass (4 bytes), number of runs (4), then for each run first page
/// (8), pages (4), content (4: 0 data, 1 zero).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PagesHeader {
    /// The pass in which they are sent, from 1.
    pub pass: u32,
    /// The runs, in the order of their contents.
    pub runs: Vec<Run>,
}

impl PagesHeader {
    /// Pages with contents.
    #[must_use]
    pub fn data_pages(&self) -> u64 {
        self.pages(Content::Data)
    }

    /// Pages sent as zero.
    #[must_use]
    pub fn zero_pages(&self) -> u64 {
        self.pages(Content::Zero)
    }

    fn pages(&self, content: Content) -> u64 {
        self.runs.iter().filter(|r| r.content == content).map(|r| r.range.count).sum()
    }

    /// Appends the whole frame, without contents, to `out`.
    ///
    /// # Panics
    /// When there are more runs than [`MOST_RUNS`] or a run has 2³² pages or more: the sender cuts
    /// its work smaller than that.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.runs.len() <= MOST_RUNS);
        let length = u32::try_from(FIXED + self.runs.len() * RUN).expect("bounded by MOST_RUNS");
        out.extend_from_slice(&Header { kind: Kind::Pages, length }.encode());
        out.extend_from_slice(&self.pass.to_le_bytes());
        let count = u32::try_from(self.runs.len()).expect("bounded by MOST_RUNS");
        out.extend_from_slice(&count.to_le_bytes());
        for run in &self.runs {
            let count = u32::try_from(run.range.count).expect("a run is cut to fit");
            let content: u32 = match run.content {
                Content::Data => 0,
                Content::Zero => 1,
            };
            out.extend_from_slice(&run.range.start.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&content.to_le_bytes());
        }
    }

    /// Reads a body and checks every run against a guest of `ram_pages` pages.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for runs that are empty, outside of RAM, too many, or of unknown
    /// content, for more contents than [`MOST_DATA_PAGES`], and for more pages in all than RAM has.
    pub fn decode(body: &[u8], ram_pages: u64) -> Result<Self, FrameError> {
        let malformed = |reason: String| FrameError::Malformed { kind: Kind::Pages, reason };
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?))
        };
        let (pass, count) = word(0)
            .zip(word(4))
            .ok_or_else(|| malformed(format!("a table of {} bytes", body.len())))?;
        let table = &body[FIXED..];
        if !table.len().is_multiple_of(RUN) || u32::try_from(table.len() / RUN) != Ok(count) {
            return Err(malformed(format!("{count} runs in {} bytes", table.len())));
        }
        let mut header = Self { pass, runs: Vec::with_capacity(table.len() / RUN) };
        for run in table.chunks_exact(RUN) {
            let part =
                |at: usize| u32::from_le_bytes([run[at], run[at + 1], run[at + 2], run[at + 3]]);
            let start = u64::from(part(0)) | u64::from(part(4)) << 32;
            let range = PageRange::new(start, u64::from(part(8)));
            if !range.is_within(ram_pages) {
                return Err(malformed(format!(
                    "pages {start}+{} of a guest that has {ram_pages}",
                    range.count
                )));
            }
            let content = match part(12) {
                0 => Content::Data,
                1 => Content::Zero,
                other => return Err(malformed(format!("content {other}"))),
            };
            header.runs.push(Run { range, content });
        }
        if header.data_pages() > MOST_DATA_PAGES {
            return Err(malformed(format!("{} pages in one frame", header.data_pages())));
        }
        let all = header.data_pages() + header.zero_pages();
        if all > ram_pages {
            return Err(malformed(format!("{all} pages of a guest that has {ram_pages}")));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_run() -> impl Strategy<Value = Run> {
        (0u64..1000, 1u64..24, any::<bool>()).prop_map(|(start, count, zero)| Run {
            range: PageRange::new(start, count),
            content: if zero { Content::Zero } else { Content::Data },
        })
    }

    /// A number that is small, or near where arithmetic goes wrong.
    fn edge() -> impl Strategy<Value = u64> {
        let edges = [0, 512, 1 << 32, 1 << 52, 1 << 60, 1 << 63, u64::MAX];
        (prop::sample::select(edges.to_vec()), 0u64..3, any::<bool>()).prop_map(|(edge, by, up)| {
            if up { edge.wrapping_add(by) } else { edge.wrapping_sub(by) }
        })
    }

    proptest! {
        #[test]
        fn a_table_reads_back(pass in any::<u32>(), runs in proptest::collection::vec(any_run(), 0..20)) {
            let header = PagesHeader { pass, runs };
            let mut bytes = Vec::new();
            header.encode_into(&mut bytes);
            let frame = Header::read(&mut &bytes[..]).unwrap();
            prop_assert_eq!(frame.kind, Kind::Pages);
            let body = &bytes[Header::SIZE..];
            prop_assert_eq!(body.len(), frame.length as usize);
            prop_assert_eq!(PagesHeader::decode(body, 1024).unwrap(), header);
            for len in 0..body.len() {
                prop_assert!(PagesHeader::decode(&body[..len], 1024).is_err());
            }
        }

        #[test]
        fn what_is_accepted_lies_within_ram(
            body in proptest::collection::vec(any::<u8>(), 0..200), pages in 0u64..10_000,
        ) {
            if let Ok(header) = PagesHeader::decode(&body, pages) {
                prop_assert!(header.runs.iter().all(|r| r.range.is_within(pages)));
                prop_assert!(header.data_pages() <= MOST_DATA_PAGES);
            }
        }

        #[test]
        fn what_is_accepted_is_what_numbers_without_bounds_say(
            runs in proptest::collection::vec((edge(), edge(), 0u32..3), 0..4),
            ram in edge(),
        ) {
            let mut body = Vec::new();
            body.extend_from_slice(&1u32.to_le_bytes());
            body.extend_from_slice(&u32::try_from(runs.len()).unwrap().to_le_bytes());
            let (mut all, mut data, mut sound) = (0u128, 0u128, true);
            for (start, count, content) in runs {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                body.extend_from_slice(&start.to_le_bytes());
                body.extend_from_slice(&count.to_le_bytes());
                body.extend_from_slice(&content.to_le_bytes());
                let end = u128::from(start) + u128::from(count);
                sound &= count > 0 && end <= u128::from(ram) && content < 2;
                all += u128::from(count);
                data += if content == 0 { u128::from(count) } else { 0 };
            }
            sound &= all <= u128::from(ram) && data <= u128::from(MOST_DATA_PAGES);
            prop_assert_eq!(PagesHeader::decode(&body, ram).is_ok(), sound);
        }

        #[test]
        fn a_run_outside_of_ram_is_refused(start in any::<u64>(), count in any::<u32>()) {
            let mut body = Vec::new();
            body.extend_from_slice(&1u32.to_le_bytes());
            body.extend_from_slice(&1u32.to_le_bytes());
            body.extend_from_slice(&start.to_le_bytes());
            body.extend_from_slice(&count.to_le_bytes());
            body.extend_from_slice(&1u32.to_le_bytes());
            let inside = count > 0 && start.checked_add(u64::from(count)).is_some_and(|e| e <= 4096);
            prop_assert_eq!(PagesHeader::decode(&body, 4096).is_ok(), inside);
        }
    }
}
