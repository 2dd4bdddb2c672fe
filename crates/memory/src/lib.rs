//! Guest RAM: one sealed memfd, or one [`MemoryFile`] that survives its process, seen as pages.
//!
//! All of a machine's RAM lies in one memory file. A page is known by its place in that file (page
//! number × [`PAGE_SIZE`]), which is the same at the source, on the wire, in a snapshot file and at
//! the destination; only [`Layout`] knows where the guest sees it.

mod backing;
mod cached;
mod clear;
mod dirty;
mod filling;
pub mod fuse;
mod guarding;
mod image;
mod layout;
mod mapping;
mod named;
mod page;
mod populate;
mod ram;
mod set;
mod touched;
pub mod userfault;
mod word;

pub use backing::{Backing, HugePool};
pub use dirty::{DirtyLog, DirtyLogError};
pub use filling::Filling;
pub use guarding::Guarding;
pub use image::RamImage;
pub use layout::{HIGH_RAM, Layout, LayoutError, PCI_HOLE, Region};
pub use named::{MemoryFile, MemoryFileError};
pub use page::{HUGE_1G, HUGE_2M, PAGE_SIZE, PageRange};
pub use ram::{GuestMemory, GuestRam, RamError};
pub use set::PageSet;
pub use word::SharedWord;
