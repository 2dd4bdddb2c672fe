//! The thread of a vCPU.

use super::Vcpu;
use super::exit::Step;
use crate::board::Board;
use crate::gate::{Gate, Order, mask_signals};
use crate::status::Status;
use devices::lock;
use memory::GuestRam;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What the threads of all vCPUs share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub vcpus: Vec<Mutex<Vcpu>>,
    pub gate: Arc<Gate>,
    pub board: Board,
    pub status: Arc<Status>,
    pub ram: Arc<GuestRam>,
}

/// Starts the thread of vCPU `index`, which waits to be told to run.
pub(crate) fn start(shared: Arc<Shared>, index: usize) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || {
        if let Err(e) = mask_signals() {
            tracing::warn!(vcpu = index, "blocking signals: {e}");
        }
        shared.gate.join(index);
        lock(&shared.vcpus[index]).warm_up(shared.gate.page(index));
        shared.gate.answer();
        let mut last = Order::FIRST;
        while let Some(order) = shared.gate.next(last) {
            last = order;
            if order.is_run() {
                serve(&shared, index, order);
                last = order.following();
            }
            shared.gate.answer();
        }
        shared.gate.leave(index);
    })
}

/// Runs the guest until there is another order. A vCPU that cannot go on stops the whole machine.
fn serve(shared: &Shared, index: usize, order: Order) {
    let Shared { vcpus, gate, board, status, ram } = shared;
    let mut vcpu = lock(&vcpus[index]);
    // A device that panics must not leave a vCPU that never answers.
    let ran = AssertUnwindSafe(|| run(&mut vcpu, gate, index, order, board, ram));
    let failed = match std::panic::catch_unwind(ran) {
        Ok(Ok(())) => None,
        Ok(Err(Halt::Failed(reason))) => Some(reason),
        Ok(Err(Halt::NoPage)) => {
            vcpu.was_stopped = true;
            gate.close();
            status.fail_io(&ram.trouble().unwrap_or_else(|| no_page(ram)));
            return;
        }
        Err(_) => Some("a defect of Whimbrel: serving it panicked".to_owned()),
    };
    vcpu.was_stopped = true;
    if let Some(reason) = failed {
        gate.close();
        // Whatever it looks like to the processor: what it ran on is gone.
        if let Some(trouble) = ram.memory_file().and_then(|_| ram.trouble()) {
            status.fail_io(&trouble);
            return;
        }
        let registers = vcpu.dump();
        if status.fail(vcpu.index, &reason, registers.clone()) {
            tracing::error!(vcpu = vcpu.index, %registers, "{reason}");
        }
    }
}

/// What to say where nothing but the lack of a page is known.
fn no_page(ram: &GuestRam) -> String {
    let why = "the host could not provide a page of its RAM";
    match ram.memory_file() {
        Some(file) => format!(
            "{why}: the file system of {} is full, or its disk has failed",
            file.path().display()
        ),
        None => why.to_owned(),
    }
}

/// Why a vCPU cannot go on.
enum Halt {
    /// A page of RAM could not be had. It can go on where it is once it can.
    NoPage,
    /// For another reason.
    Failed(String),
}

/// What the guest has begun is finished when this returns: a port or memory access that was served
/// here is completed by the last `KVM_RUN`, which `immediate_exit` keeps from going on in the
/// guest.
fn run(
    vcpu: &mut Vcpu,
    gate: &Gate,
    index: usize,
    order: Order,
    board: &Board,
    ram: &GuestRam,
) -> Result<(), Halt> {
    vcpu.prepare_to_run().map_err(|e| Halt::Failed(e.to_string()))?;
    gate.enter(index);
    gate.note_entry();
    let mut unfinished = false;
    while unfinished || gate.order() == order {
        match vcpu.step(gate.page(index), board, ram.layout()) {
            Step::Served => unfinished = true,
            Step::Interrupted => unfinished = false,
            Step::NoPage => return Err(Halt::NoPage),
            Step::Failed(reason) => return Err(Halt::Failed(reason)),
        }
    }
    Ok(())
}
