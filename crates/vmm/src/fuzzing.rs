//! The way in for fuzz targets, which are crates of their own.

use crate::Wishes;
use crate::description::Described;
use memory::Layout;
use state::Bundle;

/// Takes the description of a machine apart, as far as that needs no KVM.
pub fn describe(bundle: Bundle) {
    let Ok(described) = Described::of(bundle) else { return };
    let config = described.config(&Wishes::default());
    let _ = Layout::new(config.memory, config.backing.page_size());
    for cpuid in &described.cpuid {
        let _ = cpuid.entries();
    }
}
