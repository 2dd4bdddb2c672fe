//! The KVM machine: vCPUs, memory map, boot, ACPI, run states

pub mod boot;
