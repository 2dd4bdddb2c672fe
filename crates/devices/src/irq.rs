//! Interrupt lines: how a device is wired to an interrupt controller.

use std::sync::Arc;

/// A line that a device holds active for as long as it wants service.
///
/// Whether the controller acts on the level or on its rising edge is the controller's affair, so a
/// device says the level after every change of its registers and never counts edges.
pub trait IrqLine: Send + Sync {
    /// Sets the level. Setting the level that the line already has changes nothing.
    fn set(&self, active: bool);
}

impl<T: IrqLine + ?Sized> IrqLine for Arc<T> {
    fn set(&self, active: bool) {
        T::set(self, active);
    }
}

#[cfg(test)]
pub(crate) mod probe {
    use super::IrqLine;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    /// A line that remembers its level and counts its rising edges.
    #[derive(Debug, Default)]
    pub struct Probe {
        level: AtomicBool,
        edges: AtomicU32,
    }

    impl Probe {
        pub fn new() -> Arc<Self> {
            Arc::default()
        }
        pub fn level(&self) -> bool {
            self.level.load(SeqCst)
        }
        pub fn edges(&self) -> u32 {
            self.edges.load(SeqCst)
        }
    }

    impl IrqLine for Probe {
        fn set(&self, active: bool) {
            if active && !self.level.swap(active, SeqCst) {
                self.edges.fetch_add(1, SeqCst);
            }
            self.level.store(active, SeqCst);
        }
    }
}
