//! What a UART is while it travels.

use super::{FCR_BITS, FCR_ENABLE, IER_BITS, INPUT_CAPACITY, Line, MCR_BITS, MSR_DELTAS, Uart};
use crate::InvalidState;
use crate::irq::IrqLine;
use crate::saved::require;
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// The registers, and the host input that the guest has not read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SavedUart {
    /// Divisor latch, low byte.
    #[n(0)]
    pub divisor_low: u8,
    /// Divisor latch, high byte.
    #[n(1)]
    pub divisor_high: u8,
    /// Interrupt enable register.
    #[n(2)]
    pub ier: u8,
    /// FIFO control register: the bits that last.
    #[n(3)]
    pub fcr: u8,
    /// Line control register.
    #[n(4)]
    pub lcr: u8,
    /// Modem control register.
    #[n(5)]
    pub mcr: u8,
    /// Scratch register.
    #[n(6)]
    pub scr: u8,
    /// The four delta bits of the modem status register.
    #[n(7)]
    pub msr_deltas: u8,
    /// The overrun bit of the line status register.
    #[n(8)]
    pub overrun: bool,
    /// The transmitter-empty interrupt is pending.
    #[n(9)]
    pub thr_empty: bool,
    /// Received bytes that the guest has not read, oldest first.
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub received: Vec<u8>,
}

impl state::Saved for SavedUart {
    const SCHEMA: &'static str = "whimbrel.uart16550";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

impl Uart {
    /// The state as it stands.
    #[must_use]
    pub fn save(&self) -> SavedUart {
        let Self {
            divisor: [divisor_low, divisor_high],
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            msr_deltas,
            overrun,
            thr_empty,
            ref received,
            irq: _,
            line: _,
        } = *self;
        let received = received.iter().copied().collect();
        SavedUart {
            divisor_low,
            divisor_high,
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            msr_deltas,
            overrun,
            thr_empty,
            received,
        }
    }

    /// A UART that goes on where the saved one was. The interrupt line is left alone: its level is
    /// part of the interrupt controller's state, and follows from this one.
    ///
    /// # Errors
    /// [`InvalidState`] when no UART can be in that state.
    pub fn restore(
        saved: SavedUart,
        irq: Arc<dyn IrqLine>,
        line: Arc<dyn Line>,
    ) -> Result<Self, InvalidState> {
        let SavedUart {
            divisor_low,
            divisor_high,
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            msr_deltas,
            overrun,
            thr_empty,
            received,
        } = saved;
        let reserved = |name: &'static str, value: u8, bits: u8| {
            require("uart16550", value & !bits == 0, || {
                format!("{name} is {value:#04x}, of which only {bits:#04x} exists")
            })
        };
        reserved("IER", ier, IER_BITS)?;
        reserved("FCR", fcr, FCR_BITS)?;
        reserved("MCR", mcr, MCR_BITS)?;
        reserved("the delta part of MSR", msr_deltas, MSR_DELTAS)?;
        require("uart16550", fcr == 0 || fcr & FCR_ENABLE != 0, || {
            format!("FCR is {fcr:#04x}: a trigger level without FIFOs")
        })?;
        require("uart16550", received.len() <= INPUT_CAPACITY, || {
            format!("{} bytes wait to be read; at most {INPUT_CAPACITY} can", received.len())
        })?;
        Ok(Self {
            divisor: [divisor_low, divisor_high],
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            msr_deltas,
            overrun,
            thr_empty,
            received: received.into(),
            irq,
            line,
        })
    }
}
