//! The stable, machine-readable codes of errors and refusals.

use minicbor::{Decode, Decoder, Encode, Encoder};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What went wrong, in a word that scripts may rely on. The same words are listed in
        /// `docs/errors.md`, and a test holds the two together.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every code, in the order of the table in `docs/errors.md`.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The code as it stands in `x-whimbrel-code` and on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// One sentence that says what the code means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// A defect in Whimbrel itself; please report it.
    Internal = "internal",
    /// The command, an argument or its value is not valid.
    InvalidArgument = "invalid-argument",
    /// The command is not possible in the machine's present state.
    InvalidState = "invalid-state",
    /// This build does not support what was asked for.
    Unsupported = "unsupported",
    /// No machine of that name is running here.
    NoSuchMachine = "no-such-machine",
    /// A machine of that name exists already.
    NameTaken = "name-taken",
    /// The hypervisor `/dev/kvm` is missing or may not be opened.
    NoKvm = "no-kvm",
    /// The kernel refused an operation on the virtual machine.
    Kvm = "kvm",
    /// Guest memory cannot be had as asked for.
    MemoryUnavailable = "memory-unavailable",
    /// The kernel image, initrd or command line cannot be booted.
    BadKernel = "bad-kernel",
    /// A file, socket or terminal of the host could not be used.
    HostIo = "host-io",
    /// There is a file of that name already, and it was not to be replaced.
    FileExists = "file-exists",
    /// No connection to the peer could be made.
    ConnectFailed = "connect-failed",
    /// The connection to the peer was closed or broke.
    LinkLost = "link-lost",
    /// The peer was silent, or took nothing, for longer than the stall limit.
    LinkStalled = "link-stalled",
    /// The peer sent something that the protocol does not allow.
    ProtocolError = "protocol-error",
    /// The two engines have no protocol version in common.
    IncompatibleVersion = "incompatible-version",
    /// The destination's processor or KVM cannot give the guest the CPU that it has.
    IncompatibleCpu = "incompatible-cpu",
    /// The destination cannot give the guest its TSC frequency.
    IncompatibleTsc = "incompatible-tsc",
    /// The clocks of the two hosts are more than one second apart.
    ClockSkew = "clock-skew",
    /// The destination does not know a device or piece of state, or not in this version.
    IncompatibleDevice = "incompatible-device",
    /// A flag of the destination contradicts the machine that comes.
    ConfigConflict = "config-conflict",
    /// The machine does not fit into the destination's memory.
    InsufficientMemory = "insufficient-memory",
    /// The machine cannot be moved while it is in this state.
    NotMovable = "not-movable",
    /// The guest's memory cannot be write-protected, which a snapshot of its beginning needs.
    CannotProtect = "cannot-protect",
    /// A motion is under way already.
    Busy = "busy",
    /// The promised blackout could not be kept; the guest goes on at the source.
    BudgetExceeded = "budget-exceeded",
    /// The motion did not converge in the time that it was given.
    TimedOut = "timed-out",
    /// The motion was cancelled.
    Cancelled = "cancelled",
    /// The destination has been given the guest already: it cannot be cancelled any more.
    TooLate = "too-late",
    /// The peer reported that its side of the motion failed.
    PeerFailed = "peer-failed",
    /// The guest shut down or was reset during the motion.
    GuestGone = "guest-gone",
    /// The state that arrived could not be loaded.
    BadState = "bad-state",
    /// It is not known which side owns the guest; ask with `handover query`.
    Undecided = "undecided",
    /// This side may not run the guest.
    NotOwner = "not-owner",
    /// The decision needs the word that the other side can no longer run (`fenced`).
    NotFenced = "not-fenced",
    /// No handover of that token is recorded here.
    NoSuchToken = "no-such-token",
    /// A handover record could not be written or read.
    Journal = "journal",
    /// The guest's processor stopped on an error; its registers are in the log.
    GuestError = "guest-error",
    /// The file is no snapshot that is complete: it was not written to its end, or was cut short.
    SnapshotIncomplete = "snapshot-incomplete",
    /// The saved guest was continued from this file already.
    SnapshotClaimed = "snapshot-claimed",
    /// What the file holds is not what was written to it.
    SnapshotCorrupt = "snapshot-corrupt",
    /// The file is no snapshot, or one that this build cannot restore.
    SnapshotUnsupported = "snapshot-unsupported",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = UnknownCode;
    fn from_str(s: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|c| c.as_str() == s).ok_or(UnknownCode)
    }
}

/// A word that is no [`Code`] of this build.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an error code of this build")]
pub struct UnknownCode;

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<C> Encode<C> for Code {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(self.as_str())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Code {
    /// A newer peer may refuse for a reason that this build has no word for; the sentence beside
    /// the code still says it, so the code becomes [`Code::PeerFailed`].
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(d.str()?.parse().unwrap_or(Code::PeerFailed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_word_of_its_own_and_reads_back() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(Code::ALL[..i].iter().all(|c| c.as_str() != code.as_str()));
            assert!(!code.meaning().is_empty());
        }
    }
}
