//! The console: a 16550 at the usual port, polled
//!
//! A byte costs an exit to the VMM, so whoever watches the clock goes on doing
//! so between bytes, and while another processor has the console.

use crate::cpu::{inb, outb};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_STATUS: u16 = DATA + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO_SIZE: usize = 16;

static NEXT_TICKET: AtomicU32 = AtomicU32::new(0);
static NOW_SERVING: AtomicU32 = AtomicU32::new(0);

/// Switches the FIFO on and interrupts off
pub fn start() {
    outb(INTERRUPT_ENABLE, 0);
    outb(FIFO_CONTROL, 1);
}

/// A byte that came in, if any
pub fn read() -> Option<u8> {
    (inb(LINE_STATUS) & DATA_READY != 0).then(|| inb(DATA))
}

/// The console, held by one processor
///
/// `between` is called every now and then, with whether there was input or
/// output since.
pub struct Console<F: FnMut(bool)> {
    between: F,
}

impl<F: FnMut(bool)> Console<F> {
    /// Waits for the console; processors get it in the order in which they asked
    pub fn lock(mut between: F) -> Self {
        let ticket = NEXT_TICKET.fetch_add(1, Ordering::Relaxed);
        while NOW_SERVING.load(Ordering::Acquire) != ticket {
            core::hint::spin_loop();
            between(false);
        }
        Self { between }
    }

    /// The console if nobody has it or waits for it
    pub fn try_lock(between: F) -> Option<Self> {
        let serving = NOW_SERVING.load(Ordering::Acquire);
        NEXT_TICKET
            .compare_exchange(
                serving,
                serving.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()
            .map(|_| Self { between })
    }

    /// Prints a line
    pub fn print(&mut self, line: impl fmt::Display) {
        let mut text = Text { bytes: [0; 512], length: 0 };
        // A line that is too long is cut: all formats are shorter
        let _ = write!(text, "{line}\r\n");
        for chunk in text.bytes[..text.length].chunks(FIFO_SIZE) {
            while inb(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                (self.between)(true);
            }
            for &byte in chunk {
                (self.between)(true);
                outb(DATA, byte);
            }
            (self.between)(true);
        }
    }
}

impl<F: FnMut(bool)> Drop for Console<F> {
    fn drop(&mut self) {
        NOW_SERVING.fetch_add(1, Ordering::Release);
    }
}

/// Prints a line, on a processor that does not watch the clock
pub fn print(line: impl fmt::Display) {
    Console::lock(|_| {}).print(line);
}

struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - self.length;
        let taken = text.len().min(room);
        self.bytes[self.length..][..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
