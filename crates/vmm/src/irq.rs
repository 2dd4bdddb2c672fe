//! Interrupts from the user-space I/O APIC into KVM's local APICs.

use crate::sys::io_error;
use devices::ioapic::{MsiMessage, MsiSink, Route};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use std::sync::Arc;

/// The way into a VM's local APICs.
#[derive(Debug)]
pub(crate) struct LocalApics(pub Arc<VmFd>);

/// Address halves as KVM takes them.
fn halves(address: u64) -> (u32, u32) {
    let half = |value: u64| u32::try_from(value & 0xffff_ffff).expect("masked to 32 bits");
    (half(address), half(address >> 32))
}

impl MsiSink for LocalApics {
    fn deliver(&self, message: MsiMessage) {
        let MsiMessage { address, data } = message;
        let (address_lo, address_hi) = halves(address);
        // That nobody takes it (0) is for the guest to have meant.
        if let Err(e) =
            self.0.signal_msi(kvm_msi { address_lo, address_hi, data, ..Default::default() })
        {
            tracing::warn!(address, data, "KVM_SIGNAL_MSI: {}", io_error(e));
        }
    }

    fn routes_changed(&self, routes: &[Route]) {
        let entries: Vec<_> = routes
            .iter()
            .map(|Route { gsi, message: MsiMessage { address, data } }| {
                let (address_lo, address_hi) = halves(*address);
                let msi = kvm_irq_routing_msi {
                    address_lo,
                    address_hi,
                    data: *data,
                    ..Default::default()
                };
                kvm_irq_routing_entry {
                    gsi: *gsi,
                    type_: KVM_IRQ_ROUTING_MSI,
                    u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
                    ..Default::default()
                }
            })
            .collect();
        let table = KvmIrqRouting::from_entries(&entries).expect("an I/O APIC has 24 pins");
        if let Err(e) = self.0.set_gsi_routing(&table) {
            tracing::warn!("KVM_SET_GSI_ROUTING: {}", io_error(e));
        }
    }
}
