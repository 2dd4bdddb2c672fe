//! What a guard asks of its host: somebody who has writers wait.

use memory::userfault::WriteProtection;
use memory::{GuestRam, PageRange};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Has whoever writes a page wait: [`WriteProtection`], or what stands for it.
pub trait Protector: fmt::Debug + Send + Sync {
    /// The RAM.
    fn ram(&self) -> &Arc<GuestRam>;
    /// As [`WriteProtection::unit`].
    fn unit(&self) -> u64;
    /// As [`WriteProtection::protect`].
    ///
    /// # Errors
    /// What the host said.
    fn protect(&self, range: PageRange) -> io::Result<()>;
    /// As [`WriteProtection::let_through`].
    ///
    /// # Errors
    /// What the host said.
    fn let_through(&self, range: PageRange) -> io::Result<()>;
    /// As [`WriteProtection::unregister`].
    ///
    /// # Errors
    /// What the host said.
    fn unregister(&self) -> io::Result<()>;
}

impl Protector for WriteProtection {
    fn ram(&self) -> &Arc<GuestRam> {
        self.ram()
    }
    fn unit(&self) -> u64 {
        self.unit()
    }
    fn protect(&self, range: PageRange) -> io::Result<()> {
        self.protect(range)
    }
    fn let_through(&self, range: PageRange) -> io::Result<()> {
        self.let_through(range)
    }
    fn unregister(&self) -> io::Result<()> {
        self.unregister()
    }
}
