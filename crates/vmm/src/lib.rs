//! The KVM machine: vCPUs, memory map, boot, ACPI, run states

pub mod acpi;
pub mod boot;
