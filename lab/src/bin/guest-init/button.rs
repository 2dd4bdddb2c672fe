//! The power button, as an input device (Documentation/input/input.rst): what the kernel's ACPI drivers make of the
//! machine's interrupt.

use std::fs::{self, File};
use std::io::Read;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::system::init_module;

use crate::Order;

/// Modules of a stock kernel, in the order in which they are to be loaded.
const DRIVERS: [&str; 2] = ["button", "evdev"];
/// Length of `struct input_event`: a time of two words, type, code and value.
const EVENT: usize = 24;
/// Type `EV_KEY`, code `KEY_POWER`, value 1: it goes down (include/uapi/linux/input-event-codes.h).
const PRESSED: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];

/// Loads what makes a key of ACPI's button, and what shows keys to programs.
pub fn load_drivers() -> Result<()> {
    for name in DRIVERS {
        let path = format!("/modules/{name}.ko");
        let image = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        init_module(&image, c"").with_context(|| format!("cannot load module {name}"))?;
    }
    Ok(())
}

/// Has the button be heard of from now on.
pub fn watch(tell: &Sender<Order>) -> Result<()> {
    let mut devices = 0;
    for entry in fs::read_dir("/dev/input").context("cannot look for input devices")? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event")) {
            continue;
        }
        let device =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let tell = tell.clone();
        thread::spawn(move || follow(device, &tell));
        devices += 1;
    }
    if devices == 0 {
        bail!("the kernel has found no button");
    }
    Ok(())
}

/// Reads events, of which the kernel gives whole ones only, until the device or the listener is gone.
fn follow(mut device: File, tell: &Sender<Order>) {
    let mut events = [0; 16 * EVENT];
    while let Ok(length @ 1..) = device.read(&mut events) {
        let pressed = events[..length].chunks_exact(EVENT).any(|event| event[16..] == PRESSED);
        if pressed && tell.send(Order::PowerButton).is_err() {
            return;
        }
    }
}
