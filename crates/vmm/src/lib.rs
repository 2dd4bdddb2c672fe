//! The KVM machine: vCPUs, memory map, boot, ACPI, run states.
//!
//! A [`Vm`] is built once, with all its vCPUs, their threads and its devices, and then runs whenever
//! it is given a [`motion::handover::RunPermit`]. It is made from nothing ([`Vm::new`],
//! [`Vm::boot`]) or for a guest that comes from elsewhere ([`Builder`]).

mod abi;
pub mod acpi;
mod available;
mod board;
pub mod boot;
mod builder;
mod clock;
mod config;
mod description;
mod dirty;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod irq;
mod kvm;
mod machine;
mod motion;
#[cfg(feature = "mutate")]
pub mod mutate;
mod run_page;
mod slots;
mod status;
mod sys;
mod touched;
mod vcpu;
mod vm;

pub use board::InUpdate;
pub use builder::{Builder, ConsoleSource, RamOrigin, Wishes};
pub use clock::{GuestClock, SavedClock};
pub use config::{BootFiles, BootSource, MOST_VCPUS, MachineConfig};
pub use description::{MOST_BOOT_BYTES, SavedBoot, SavedCpuid, SavedMachine, SavedSchemas};
pub use error::VmError;
pub use kvm::{Hypervisor, OpenError};
pub use status::{EventSink, Registers, RunState, VmEvent};
pub use touched::SavedTouched;
pub use vcpu::SavedVcpu;
pub use vm::{Vm, time_of_slots};
