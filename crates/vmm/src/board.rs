//! The machine's devices, wired to each other and to KVM.

use crate::gate::Gate;
use crate::status::Status;
use devices::acpi_pm::{self, AcpiPm, PowerEvent, PowerSwitch, SavedAcpiPm};
use devices::bus::{Bus, BusError};
use devices::console::{Console, SavedConsoleEnd};
use devices::ioapic::{self, IoApic, MsiSink, Pin, SavedIoApic};
use devices::irq::IrqLine;
use devices::uart::{self, Line, SavedUart, Uart};
use devices::{InvalidState, lock};
use state::{Bundle, Declared, LoadError, Saved};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// What a device asks for when the process that serves it is replaced under the guest.
#[derive(Debug)]
pub enum InUpdate {
    /// Nothing. It does something only while a vCPU asks it to: once those stand still so does it, and its saved
    /// state is all that there is of it.
    Nothing,
    /// To be drained. It has an end at the host, where things go on while the vCPUs stand still, until its state is
    /// saved. These descriptors of it go along.
    Drained(SavedConsoleEnd, Vec<OwnedFd>),
}

/// The devices of every machine.
pub(crate) struct Board {
    ports: Bus,
    mmio: Bus,
    ioapic: Arc<Mutex<IoApic>>,
    uart: Arc<Mutex<Uart>>,
    pm: Arc<Mutex<AcpiPm>>,
    sink: Arc<dyn MsiSink>,
    line: Arc<dyn Line>,
    switch: Arc<dyn PowerSwitch>,
}

impl Board {
    /// What [`Self::take`] can read.
    pub fn schemas() -> [Declared; 3] {
        [Declared::of::<SavedIoApic>(), Declared::of::<SavedUart>(), Declared::of::<SavedAcpiPm>()]
    }

    /// The devices as they are after power-on. `line` is the host's end of the console.
    pub fn new(
        sink: Arc<dyn MsiSink>,
        line: Arc<dyn Line>,
        switch: Arc<dyn PowerSwitch>,
    ) -> Result<Self, BusError> {
        let ioapic = Arc::new(Mutex::new(IoApic::new(sink.clone())));
        let uart = Uart::new(wire(&ioapic, uart::COM1_IRQ), line.clone());
        let pm = AcpiPm::new(wire(&ioapic, acpi_pm::GSI), switch.clone());
        let (uart, pm) = (Arc::new(Mutex::new(uart)), Arc::new(Mutex::new(pm)));
        let (mut ports, mut mmio) = (Bus::ports(), Bus::mmio());
        mmio.insert(IOAPIC, ioapic::BASE, ioapic::LENGTH, ioapic.clone())?;
        ports.insert(UART, uart::COM1_PORT.into(), uart::PORTS.into(), uart.clone())?;
        ports.insert(PM, acpi_pm::BASE.into(), acpi_pm::PORTS.into(), pm.clone())?;
        Ok(Self { ports, mmio, ioapic, uart, pm, sink, line, switch })
    }

    pub fn ports(&self) -> &Bus {
        &self.ports
    }

    pub fn mmio(&self) -> &Bus {
        &self.mmio
    }

    pub fn ioapic(&self) -> &Mutex<IoApic> {
        &self.ioapic
    }

    pub fn uart(&self) -> &Arc<Mutex<Uart>> {
        &self.uart
    }

    /// Asks the guest to power off, as a person does who presses the button.
    pub fn press_power_button(&self) {
        lock(&self.pm).press_power_button();
    }

    /// All devices back to power-on.
    pub fn reset(&self) {
        lock(&self.uart).reset();
        lock(&self.pm).reset();
        lock(&self.ioapic).reset();
    }

    /// Adds the state of all devices.
    pub fn save(&self, into: &mut Bundle) {
        let Self { ports: _, mmio: _, ioapic, uart, pm, sink: _, line: _, switch: _ } = self;
        into.put("", &lock(ioapic).save());
        into.put(COM1, &lock(uart).save());
        #[cfg(not(feature = "mutate"))]
        into.put("", &lock(pm).save());
        #[cfg(feature = "mutate")]
        crate::mutate::put_pm(lock(pm).save(), into);
    }

    /// Asks each device, by its name on the bus, what it needs of an update that begins: one that is added does not
    /// compile before it has an answer here. From then on ends at the host are
    /// [lent](devices::console::Console::ends) to the new process; `console` is the UART's.
    pub fn in_update(&self, console: &Console) -> io::Result<[(&'static str, InUpdate); 3]> {
        let Self { ports: _, mmio: _, ioapic: _, uart: _, pm: _, sink: _, line: _, switch: _ } =
            self;
        let (end, descriptors) = console.ends()?;
        Ok([
            (IOAPIC, InUpdate::Nothing),
            (UART, InUpdate::Drained(end, descriptors)),
            (PM, InUpdate::Nothing),
        ])
    }

    /// Takes the state of all devices out of `bundle`.
    pub fn take(bundle: &mut Bundle) -> Result<SavedBoard, LoadError> {
        #[cfg(not(feature = "mutate"))]
        let pm = bundle.take("")?;
        #[cfg(feature = "mutate")]
        let pm = crate::mutate::take_pm(bundle)?;
        Ok(SavedBoard { ioapic: bundle.take("")?, uart: bundle.take(COM1)?, pm })
    }

    /// Puts all devices into that state, or none. `held` says whether any local APIC holds an
    /// interrupt of this vector, pending or in service.
    pub fn restore(&self, saved: SavedBoard, held: impl Fn(u8) -> bool) -> Result<(), LoadError> {
        let SavedBoard { ioapic, uart, pm } = saved;
        let ended = ends_not_heard_of(&ioapic, held);
        let sink = self.sink.clone();
        let ioapic = IoApic::restore(&ioapic, sink).map_err(refused::<SavedIoApic>(""))?;
        let irq = wire(&self.ioapic, uart::COM1_IRQ);
        let line = self.line.clone();
        let uart = Uart::restore(uart, irq, line).map_err(refused::<SavedUart>(COM1))?;
        let irq = wire(&self.ioapic, acpi_pm::GSI);
        let switch = self.switch.clone();
        let pm = AcpiPm::restore(&pm, irq, switch).map_err(refused::<SavedAcpiPm>(""))?;
        let routes = ioapic.routes();
        *lock(&self.ioapic) = ioapic;
        *lock(&self.uart) = uart;
        *lock(&self.pm) = pm;
        if !routes.is_empty() {
            self.sink.routes_changed(&routes);
        }
        for vector in ended {
            lock(&self.ioapic).end_of_interrupt(vector);
        }
        Ok(())
    }
}

/// The vectors of level-triggered interrupts that the guest has ended without the I/O APIC having
/// heard of it: KVM reports an end when the vCPU is about to enter the guest again, and a vCPU that
/// is stopped just then does not get there. Such a pin would wait for ever.
fn ends_not_heard_of(ioapic: &SavedIoApic, held: impl Fn(u8) -> bool) -> Vec<u8> {
    const REMOTE_IRR: u64 = 1 << 14;
    let waiting = ioapic.entries.iter().filter(|entry| *entry & REMOTE_IRR != 0);
    waiting.map(|entry| entry.to_le_bytes()[0]).filter(|vector| !held(*vector)).collect()
}

/// The state of all devices.
#[derive(Debug)]
pub(crate) struct SavedBoard {
    ioapic: SavedIoApic,
    uart: SavedUart,
    pm: SavedAcpiPm,
}

/// The devices by their names.
const IOAPIC: &str = "ioapic";
const UART: &str = "uart16550";
const PM: &str = "acpi-pm";

/// Which UART it is.
const COM1: &str = "com1";

fn wire(ioapic: &Arc<Mutex<IoApic>>, pin: u8) -> Arc<dyn IrqLine> {
    Arc::new(Pin::new(ioapic.clone(), pin))
}

fn refused<S: Saved>(instance: &str) -> impl FnOnce(InvalidState) -> LoadError {
    move |e| LoadError::Malformed {
        schema: S::SCHEMA.to_owned(),
        instance: instance.to_owned(),
        reason: e.to_string(),
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("ports", &self.ports).field("mmio", &self.mmio).finish()
    }
}

/// The guest's hand on the power switch: it stops all vCPUs, without waiting for them, since it is
/// one of them that asks.
#[derive(Debug)]
pub(crate) struct Power {
    pub gate: Arc<Gate>,
    pub status: Arc<Status>,
}

impl PowerSwitch for Power {
    fn request(&self, event: PowerEvent) {
        self.gate.close();
        match event {
            PowerEvent::Shutdown => self.status.shut_down(),
            PowerEvent::Reset => self.status.want_reset(),
        }
    }
}
