//! What can go wrong.

use memory::PageRange;
use rustix::io::Errno;
use std::io;

/// Why a snapshot could not be written. What was the file before, if anything, is there as it was,
/// unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is a file already.
    #[error("{0} exists already: choose another name, or replace it with --force")]
    Exists(String),
    /// Only regular files can be written at fixed places.
    #[error("{name} is {what}, in which pages have no fixed place: use a regular file")]
    NotRegular {
        /// The file.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// What is to be saved cannot be described in a header.
    #[error("the snapshot cannot be described: {0}")]
    Header(String),
    /// The description and the state are so large that the file would not be bounded by RAM.
    #[error(
        "the snapshot would have {total} bytes, and that of so much RAM has at most {most}: the \
         machine's description and state are too large"
    )]
    TooLarge {
        /// Bytes it would have.
        total: u64,
        /// Bytes it may have.
        most: u64,
    },
    /// A system call failed.
    #[error("{name}: {action}{} failed: {source}{}", at(*offset), advice(source))]
    Io {
        /// The file.
        name: String,
        /// What was being done.
        action: &'static str,
        /// Where in the file, in bytes from its start.
        offset: Option<u64>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Guest RAM could not be read.
    #[error("reading pages {}..{} of guest RAM failed: {source}", range.start, range.end())]
    Ram {
        /// The pages.
        range: PageRange,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The writer is not, or no more, at the point at which this may be done.
    #[error("{name}: {what}")]
    Misused {
        /// The file.
        name: String,
        /// What was wrong.
        what: &'static str,
    },
    /// It failed, and it could not be made sure that what was written is not taken for complete.
    #[error("{failure}; and it could not be made sure that nothing of it is left: {undoing}")]
    NotUndone {
        /// What failed first.
        failure: Box<WriteError>,
        /// What failed while it was being undone.
        undoing: Box<WriteError>,
    },
}

/// What is wrong with what a file says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as a snapshot does.
    #[error("it is not a snapshot of a machine")]
    NoMagic,
    /// A checksum does not fit.
    #[error("{0} is damaged: its checksum does not fit")]
    Checksum(&'static str),
    /// It says what cannot be.
    #[error("{0} makes no sense: {1}")]
    Nonsense(&'static str, String),
    /// It ends too early.
    #[error("it has been cut off: its section `{0}` is not all there")]
    CutOff(&'static str),
    /// A later version of the format.
    #[error("it is of format version {0}, and this build restores version 1: use a later one")]
    Newer(u32),
    /// It needs what this build does not know.
    #[error("it needs {} this build does not know: use a later one", features(*.0))]
    Features(u64),
    /// It has a section that must not be passed over.
    #[error("it has a section of kind {0}, which this build does not know: use a later one")]
    Section(u32),
    /// It is of another architecture.
    #[error("it is of a machine of architecture {0}, and this build runs x86_64")]
    Architecture(String),
}

/// Why a snapshot could not be read. Nothing was changed by trying.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A system call failed.
    #[error("{name}: {action}{} failed: {source}{}", at(*offset), advice(source))]
    Io {
        /// The file.
        name: String,
        /// What was being done.
        action: &'static str,
        /// Where in the file, in bytes from its start.
        offset: Option<u64>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Only regular files have fixed places.
    #[error("{name} is {what}, not a file that can be read at fixed places")]
    NotRegular {
        /// The file.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// It has no mark of completeness.
    #[error(
        "{0} is incomplete: whatever wrote it did not come to the end, or took it back; take the \
         snapshot again"
    )]
    Incomplete(String),
    /// What the file says is wrong.
    #[error("{name}: {damage}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
    /// It is shorter than what is in it.
    #[error("{name} has been cut off: {needed} bytes are needed and {found} are there")]
    Truncated {
        /// The file.
        name: String,
        /// Bytes it must have.
        needed: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The guest's RAM is in a memory file, and no page of it here.
    #[error("{name} has the state of a machine and none of its RAM, which is in {}", path.display())]
    Apart {
        /// The file.
        name: String,
        /// The memory file.
        path: std::path::PathBuf,
    },
    /// Another file is at its path now, or none.
    #[error("{0} has been replaced or removed since it was opened")]
    Replaced(String),
    /// A page is not what was written.
    #[error(
        "{name}: page {page} (offset {offset} in the file) is damaged: its checksum is {found:#010x} \
         and should be {expected:#010x}"
    )]
    BadPage {
        /// The file.
        name: String,
        /// Number of the page in RAM's file.
        page: u64,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// The checksum of what is there.
        found: u32,
        /// The checksum of what was written.
        expected: u32,
    },
    /// The caller asked for pages that are not there, or gave too small a buffer.
    #[error("{name}: pages {}..{} do not fit the guest's {pages} or the buffer", range.start, range.end())]
    OutOfRange {
        /// The file.
        name: String,
        /// The pages asked for.
        range: PageRange,
        /// Pages of RAM.
        pages: u64,
    },
}

/// Why a claim was not made. The file says what it said before, unless writing failed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The guest has been continued already.
    #[error(
        "{name} has been continued already, on host {host}: its guest may be running, and its disks \
         have moved on (--clone makes an independent copy, --reclaim continues it again regardless)"
    )]
    Claimed {
        /// The file.
        name: String,
        /// Name of the host that did.
        host: String,
    },
    /// There is a claim that cannot be read.
    #[error(
        "{0}: its claim record is damaged, so that its guest may have been continued already (--clone \
         makes an independent copy, --reclaim continues it regardless)"
    )]
    Damaged(String),
    /// The file cannot be written.
    #[error(
        "{name} cannot be marked as continued: {source} (a saved guest is continued once; --clone \
         makes an independent copy and needs no mark)"
    )]
    ReadOnly {
        /// The file.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody else is at it right now.
    #[error("{0} is being continued by another process at this moment")]
    Contended(String),
    /// It cannot be locked or read, or is not the file that was opened.
    #[error(transparent)]
    File(ReadError),
    /// The host's name is longer than the record has room for.
    #[error("the host's name is longer than 256 bytes")]
    Host,
    /// The record could not be made durable: whether it is there is not known.
    #[error(
        "{name}: {action} failed: {source}; whether the file says that its guest was continued is \
         not known{}",
        advice(source)
    )]
    Io {
        /// The file.
        name: String,
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

/// What to try.
fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => ": free some space, or choose another place",
        Some(Errno::DQUOT) => ": the quota is used up; choose another place",
        Some(Errno::FBIG) => ": files that large are not allowed here (see ulimit -f)",
        Some(Errno::IO) => ": the storage failed; the host's kernel log says more",
        Some(Errno::ROFS) => ": choose a place that can be written",
        _ => "",
    }
}

fn features(bits: u64) -> String {
    let bits: Vec<String> =
        (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
    match bits.as_slice() {
        [one] => format!("feature {one}, which"),
        _ => format!("features {}, which", bits.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_why_and_what_to_try() {
        let error = WriteError::Io {
            name: "/var/a.snap".into(),
            action: "writing pages",
            offset: Some(4096),
            source: Errno::NOSPC.into(),
        };
        assert_eq!(
            error.to_string(),
            "/var/a.snap: writing pages at offset 4096 failed: No space left on device (os error \
             28): free some space, or choose another place"
        );
        let damage = Damage::Features(1 << 3 | 1 << 40);
        assert!(damage.to_string().contains("features 3, 40, which this build does not know"));
    }
}
