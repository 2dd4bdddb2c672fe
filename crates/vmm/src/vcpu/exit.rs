//! Why a vCPU left the guest, and what is done about it.

use super::Vcpu;
use crate::board::Board;
use crate::run_page::RunPage;
use crate::sys::io_error;
use devices::lock;
use kvm_ioctls::VcpuExit;
use memory::Layout;

/// What came of letting a vCPU run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An exit was served. The instruction that it belongs to may be unfinished: KVM completes it
    /// when the vCPU is run again.
    Served,
    /// It was interrupted, and nothing is unfinished.
    Interrupted,
    /// KVM could not access a page of the guest's RAM. The instruction that needs it is yet to be
    /// executed.
    NoPage,
    /// It cannot go on, for this reason.
    Failed(String),
}

impl Vcpu {
    /// Runs the guest on it until the next exit, and serves that.
    pub fn step(&mut self, page: &RunPage, board: &Board, layout: &Layout) -> Step {
        let reason = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                // One exit may stand for a whole string of accesses to the port.
                for item in data.chunks(page.port_size().max(1)) {
                    board.ports().write(port.into(), item);
                }
                return Step::Served;
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                for item in data.chunks_mut(page.port_size().max(1)) {
                    board.ports().read(port.into(), item);
                }
                return Step::Served;
            }
            // Where KVM emulates an instruction, RAM that it cannot access is a device to it. The
            // instruction is half done.
            Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _))
                if layout.page_at(address).is_some() =>
            {
                format!("KVM cannot access RAM at {address:#x} for the guest")
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                board.mmio().read(address, data);
                return Step::Served;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                board.mmio().write(address, data);
                return Step::Served;
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                lock(board.ioapic()).end_of_interrupt(vector);
                return Step::Served;
            }
            // KVM serves HLT itself; these only say that it came back.
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => return Step::Served,
            Ok(VcpuExit::Shutdown) => "triple fault".to_owned(),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!(
                    "the processor refused to enter the guest: reason {reason:#x}, on CPU {cpu}"
                )
            }
            Ok(VcpuExit::SystemEvent(kind, data)) => {
                format!("KVM reports system event {kind} with {data:x?}")
            }
            Ok(VcpuExit::MemoryFault { flags, gpa, size }) => {
                format!(
                    "KVM cannot access {size:#x} bytes at {gpa:#x} for the guest (flags {flags:#x})"
                )
            }
            Ok(VcpuExit::InternalError) => String::new(),
            Ok(other) => format!("unexpected exit {other:?}"),
            Err(e) => match e.errno() {
                libc::EINTR => return Step::Interrupted,
                // A vCPU that waits for its INIT: KVM has only come round.
                libc::EAGAIN => return Step::Served,
                libc::EFAULT => return Step::NoPage,
                _ => format!("KVM_RUN: {}", io_error(e)),
            },
        };
        Step::Failed(if reason.is_empty() { self.internal_error() } else { reason })
    }

    /// What KVM says of an internal error of its own (`KVM_EXIT_INTERNAL_ERROR`).
    fn internal_error(&mut self) -> String {
        // SAFETY: the exit reason has just said that this is the member of the union that is valid,
        // and it is plain integers.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let what = match internal.suberror {
            1 => "an instruction that it cannot emulate",
            2 => "an exception while delivering another",
            3 => "an exit while delivering an event",
            4 => "an exit that it does not expect",
            _ => "something that it does not name",
        };
        let count = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
        format!("internal error of KVM: {what}, data {:x?}", &internal.data[..count])
    }
}
