//! A 16550A UART: the guest's console.
//!
//! Registers and interrupts follow the National Semiconductor PC16550D data sheet (section 8).
//! Time does not exist here: a byte that is written has been sent at once, and a byte that waits
//! below the trigger level has timed out at once. The interrupt output is the level that the data
//! sheet derives from the registers, recomputed after every access; nothing else is remembered of
//! it, so a restored UART asks for service exactly when the saved one did.
//!
//! Host input waits in one queue, of which the guest sees the first 16 bytes as its receive FIFO.
//! The host asks for [`Uart::room`] before it hands over more, so nothing that was accepted is
//! lost, unless the guest itself clears the FIFO.

mod saved;

pub use saved::SavedUart;

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use std::collections::VecDeque;
use std::sync::Arc;

/// First port of COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// Number of ports of a UART.
pub const PORTS: u16 = 8;
/// Interrupt line of COM1.
pub const COM1_IRQ: u8 = 4;
/// Most bytes of host input that wait for the guest.
pub const INPUT_CAPACITY: usize = 4096;

const FIFO_DEPTH: usize = 16;

mod reg {
    pub const DATA: u64 = 0;
    pub const IER: u64 = 1;
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;
    pub const SCR: u64 = 7;
}

const IER_RECEIVED: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;
const IER_BITS: u8 = 0x0f;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVED: u8 = 1 << 1;
/// FIFO enable and trigger level: what remains of a write, the other bits clear themselves.
const FCR_BITS: u8 = FCR_ENABLE | 0xc0;

const LCR_DLAB: u8 = 1 << 7;

const MCR_LOOP: u8 = 1 << 4;
const MCR_BITS: u8 = 0x1f;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
const MSR_DELTAS: u8 = 0x0f;

/// The other end of the serial line: the host.
pub trait Line: Send + Sync {
    /// Takes what the guest sent. Must not block the caller, which is a vCPU, for long. Called with
    /// the UART locked.
    fn send(&self, bytes: &[u8]);
    /// The guest has read what there was: there is room for input again. Called with the UART
    /// locked.
    fn drained(&self);
}

/// The UART.
pub struct Uart {
    divisor: [u8; 2],
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    /// Modem status lines that changed since the guest last looked.
    msr_deltas: u8,
    overrun: bool,
    /// The transmitter has run empty and nobody was told yet.
    thr_empty: bool,
    received: VecDeque<u8>,
    irq: Arc<dyn IrqLine>,
    line: Arc<dyn Line>,
}

impl Uart {
    /// A UART as it is after power-on.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, line: Arc<dyn Line>) -> Self {
        Self {
            divisor: [0x0c, 0x00], // 9600 baud
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            msr_deltas: 0,
            overrun: false,
            thr_empty: false,
            received: VecDeque::new(),
            irq,
            line,
        }
    }

    /// Back to power-on, as a machine reset does. Host input that waits is kept.
    pub fn reset(&mut self) {
        let received = std::mem::take(&mut self.received);
        *self = Self { received, ..Self::new(self.irq.clone(), self.line.clone()) };
        self.update_irq();
    }

    /// How many bytes of host input can be taken now.
    #[must_use]
    pub fn room(&self) -> usize {
        INPUT_CAPACITY - self.received.len()
    }

    /// Takes host input, and says how much of it: at most [`Self::room`] bytes.
    pub fn receive(&mut self, input: &[u8]) -> usize {
        let taken = input.len().min(self.room());
        self.received.extend(&input[..taken]);
        self.update_irq();
        taken
    }

    fn read_register(&mut self, register: u64) -> u8 {
        match register {
            reg::DATA | reg::IER if self.lcr & LCR_DLAB != 0 => {
                self.divisor[usize::from(register == reg::IER)]
            }
            reg::DATA => self.take_received(),
            reg::IER => self.ier,
            reg::IIR_FCR => {
                let source = self.interrupt();
                if source == IIR_THR_EMPTY {
                    self.thr_empty = false;
                }
                source | if self.fcr & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
            }
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => {
                let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
                let ready = if self.received.is_empty() { 0 } else { LSR_DATA_READY };
                LSR_TRANSMITTER_EMPTY | overrun | ready
            }
            reg::MSR => self.modem_lines() | std::mem::take(&mut self.msr_deltas),
            reg::SCR => self.scr,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        match register {
            reg::DATA | reg::IER if self.lcr & LCR_DLAB != 0 => {
                self.divisor[usize::from(register == reg::IER)] = value;
            }
            reg::IER => {
                let before = std::mem::replace(&mut self.ier, value & IER_BITS);
                // Enabling this source while the transmitter is empty, which is always so here,
                // raises it: that is how a driver starts sending.
                if value & !before & IER_THR_EMPTY != 0 {
                    self.thr_empty = true;
                }
            }
            reg::IIR_FCR => self.control_fifo(value),
            reg::LCR => self.lcr = value,
            reg::MCR => {
                let before = self.modem_lines();
                self.mcr = value & MCR_BITS;
                self.note_modem_change(before);
            }
            reg::SCR => self.scr = value,
            _ => {}
        }
    }

    fn take_received(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        // Telling the host about every byte would cost more than the byte.
        if self.received.is_empty() {
            self.line.drained();
        }
        byte
    }

    fn transmit(&mut self, bytes: &[u8]) {
        // Writing takes the transmitter-empty interrupt back, so that its return is a new edge.
        self.thr_empty = false;
        self.update_irq();
        if self.mcr & MCR_LOOP == 0 {
            self.line.send(bytes);
        } else {
            let taken = bytes.len().min(self.room());
            self.received.extend(&bytes[..taken]);
            self.overrun |= taken < bytes.len();
        }
        self.thr_empty = true;
    }

    fn control_fifo(&mut self, value: u8) {
        // Switching the FIFOs on or off clears them (data sheet 8.5).
        if value & FCR_CLEAR_RECEIVED != 0 || (value ^ self.fcr) & FCR_ENABLE != 0 {
            let visible = self.received.len().min(self.depth());
            self.received.drain(..visible);
            self.line.drained();
        }
        self.fcr = if value & FCR_ENABLE != 0 { value & FCR_BITS } else { 0 };
    }

    /// How many received bytes the guest can see at once.
    fn depth(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 { FIFO_DEPTH } else { 1 }
    }

    /// How many received bytes make up a full batch.
    fn trigger_level(&self) -> usize {
        match self.fcr & FCR_BITS {
            0x41 => 4,
            0x81 => 8,
            0xc1 => 14,
            _ => 1,
        }
    }

    fn modem_lines(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CTS | MSR_DSR | MSR_DCD; // a terminal that is always there
        }
        // Looped back: DTR → DSR, RTS → CTS, OUT1 → RI, OUT2 → DCD.
        [(0, MSR_DSR), (1, MSR_CTS), (2, MSR_RI), (3, MSR_DCD)]
            .into_iter()
            .filter(|(output, _)| self.mcr & (1 << output) != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }

    fn note_modem_change(&mut self, before: u8) {
        let now = self.modem_lines();
        let both_edges = (before ^ now) & !MSR_RI;
        let ring_ended = before & !now & MSR_RI;
        self.msr_deltas |= (both_edges | ring_ended) >> 4;
    }

    /// The source with the highest priority that is both pending and enabled (data sheet table 5).
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if self.overrun && enabled(IER_LINE_STATUS) {
            IIR_LINE_STATUS
        } else if !self.received.is_empty() && enabled(IER_RECEIVED) {
            if self.received.len() >= self.trigger_level() { IIR_RECEIVED } else { IIR_TIMEOUT }
        } else if self.thr_empty && enabled(IER_THR_EMPTY) {
            IIR_THR_EMPTY
        } else if self.msr_deltas != 0 && enabled(IER_MODEM_STATUS) {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// On a PC the modem output OUT2 gates this line. It does not here: drivers that poll never
    /// set it and do not mind, and those that want interrupts always do.
    fn update_irq(&self) {
        self.irq.set(self.interrupt() != IIR_NONE);
    }
}

impl BusDevice for Uart {
    /// Every byte of a wider access goes to the same register: no driver reads two registers of a
    /// UART at once, while string instructions (`rep insb`) arrive as one access to one port.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for byte in data {
            *byte = self.read_register(offset);
        }
        self.update_irq();
    }

    /// As for [`Self::read`]: `rep outsb` sends a whole line in one exit.
    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == reg::DATA && self.lcr & LCR_DLAB == 0 {
            self.transmit(data);
        } else {
            for byte in data {
                self.write_register(offset, *byte);
            }
        }
        self.update_irq();
    }
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.save().fmt(f)
    }
}

#[cfg(test)]
mod tests;
