//! Ways of writing and reading files.

/// Which moment a snapshot of a guest that goes on running is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The one at which it begins.
    Start,
    /// The one at which it ends.
    End,
}

/// One way in which a VMM writes a guest to a file, or takes one out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// What it is called among the samples.
    pub name: &'static str,
    /// Capabilities to switch on or off before.
    pub capabilities: &'static [(&'static str, bool)],
    /// Whether the page cache is passed by, where that is said at all.
    pub direct: Option<bool>,
    /// What else is said when it is written (arguments of `migrate` that are true) or read (flags).
    pub arguments: &'static [&'static str],
    /// Whether the file has to be asked for over QMP, because it cannot be on the command line.
    pub asked: bool,
}

impl Way {
    /// One that sets nothing.
    #[must_use]
    pub const fn called(name: &'static str) -> Self {
        Self { name, capabilities: &[], direct: None, arguments: &[], asked: false }
    }
}
