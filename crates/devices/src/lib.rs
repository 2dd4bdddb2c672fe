//! Device models: registers in, interrupt lines out, and nothing of KVM in between.
//!
//! A device is a plain struct. The guest reaches it through a [`bus::Bus`], it reaches the guest
//! through an [`irq::IrqLine`], and the host is behind a trait that its owner implements. Each has
//! its saved state in a type of its own beside it: `save` takes the device apart field by field,
//! and the only ways to have one are `new` and `restore`, which checks what it is given.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod bus;
pub mod console;
pub mod event_loop;
pub mod ioapic;
pub mod irq;
mod saved;
pub mod uart;

pub use saved::InvalidState;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a device. A thread that panicked while it held the lock has left a device whose every
/// field is still valid by type, and one panic is to be reported once, not by every vCPU.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
