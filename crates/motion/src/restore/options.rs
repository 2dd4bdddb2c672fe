//! What is asked of a restore.

use std::time::Duration;
use uuid::Uuid;

/// On what terms a guest is taken from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Terms {
    /// As the file says: a saved guest goes on once, and is claimed; of a snapshot copies are made.
    #[default]
    AsSaved,
    /// A saved guest goes on once more, although it was claimed: what it has done since, and done to
    /// its disks, is not in the file.
    Reclaim,
    /// A copy that is a machine of its own. Nothing is claimed.
    Clone,
}

/// When RAM is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum How {
    /// Before the guest runs.
    #[default]
    Eager,
    /// While it runs: pages come when they are touched, and otherwise one after the other. Needs a
    /// userfaultfd.
    Lazy,
    /// Never: the guest runs on the pages of the file, and on pages of its own for those that it
    /// writes. The file has to stay as it is for as long as the guest lives. The machine has to be
    /// built so: [`memory::GuestRam::over`].
    Mapped,
    /// Not at all: RAM is in a memory file, on which the machine has to be built
    /// ([`memory::GuestRam::named`]), and only its state comes out of the file.
    InPlace,
}

impl How {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
            Self::Mapped => "mmap",
            Self::InPlace => "in-place",
        }
    }
}

/// Who claims a saved guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Name of the host, for people.
    pub host: String,
    /// Which boot of it (`/proc/sys/kernel/random/boot_id`).
    pub boot: Uuid,
}

/// What is asked of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOptions {
    /// On what terms.
    pub terms: Terms,
    /// When RAM is filled.
    pub how: How,
    /// The guest does not run before [`RestoreJob::cont`](super::RestoreJob::cont).
    pub paused: bool,
    /// Who claims it.
    pub claimant: Claimant,
    /// Pages that are mapped are checked, all of them, before the guest runs. Others always are.
    pub verify: bool,
    /// How long a page may take to come while the guest runs. After that it is stopped, and asks again
    /// when it is told to.
    pub io_stall: Duration,
    /// How many threads read the file before the guest runs, 1 to [`Self::MOST_THREADS`].
    pub threads: usize,
}

impl RestoreOptions {
    /// More threads than this gain nothing and hold a buffer each.
    pub const MOST_THREADS: usize = 16;

    /// As many threads as keep storage busy while others check and copy what they have read.
    #[must_use]
    pub fn usual_threads() -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (2 * processors).min(Self::MOST_THREADS)
    }
}
