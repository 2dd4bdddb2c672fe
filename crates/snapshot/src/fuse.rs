//! Where tests make an operation fail.

#[cfg(not(test))]
pub(crate) fn pass() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use testing::pass;

#[cfg(test)]
pub(crate) mod testing {
    use rustix::io::Errno;
    use std::cell::Cell;
    use std::io;

    /// What happens to an operation on storage.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fate {
        /// It alone fails.
        Fails(Errno),
        /// It and all that follow: the process is no more.
        Dies,
    }

    thread_local! {
        /// How many operations still succeed, and what then happens. Each test has a thread.
        static FUSE: Cell<Option<(u64, Fate)>> = const { Cell::new(None) };
        static PASSED: Cell<u64> = const { Cell::new(0) };
    }

    /// Does `work` while the operation number `at` (from 0) meets its fate. Says how many operations
    /// there were.
    pub(crate) fn during<T>(at: u64, fate: Fate, work: impl FnOnce() -> T) -> (T, u64) {
        FUSE.set(Some((at, fate)));
        PASSED.set(0);
        let result = work();
        FUSE.set(None);
        (result, PASSED.get())
    }

    pub(crate) fn pass() -> io::Result<()> {
        PASSED.set(PASSED.get() + 1);
        let Some((left, fate)) = FUSE.get() else { return Ok(()) };
        if let Some(left) = left.checked_sub(1) {
            FUSE.set(Some((left, fate)));
            return Ok(());
        }
        match fate {
            Fate::Dies => Err(Errno::IO.into()),
            Fate::Fails(error) => {
                FUSE.set(None);
                Err(error.into())
            }
        }
    }
}
