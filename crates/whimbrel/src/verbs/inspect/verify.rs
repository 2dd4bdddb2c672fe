//! Whether every page is what was written.

use crate::exit::Exit;
use crate::output::{bytes, grouped, print_json, print_line};
use crate::terminal::is_screen;
use indicatif::{ProgressBar, ProgressStyle};
use memory::PAGE_SIZE;
use serde_json::json;
use snapshot::{Fault, Reader};
use std::io::stderr;

/// Most faults that are told to people.
const TOLD: usize = 20;

/// `whimbrel inspect FILE --verify`
pub fn run(reader: &Reader, json: bool) -> anyhow::Result<Exit> {
    let pages = reader.present().count();
    let bar = if is_screen(&stderr()) && !json {
        let template = "{wide_bar} {percent} %, {binary_bytes_per_sec}, {eta} left";
        ProgressBar::new(pages * PAGE_SIZE).with_style(ProgressStyle::with_template(template)?)
    } else {
        ProgressBar::hidden()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let faults = reader.verify(threads, &|checked| bar.set_position(checked * PAGE_SIZE));
    bar.finish_and_clear();
    if json {
        let faults: Vec<_> = faults.iter().map(told).collect();
        print_json(&json!({ "pages": pages, "faults": faults }))?;
    } else {
        say(pages, &faults);
    }
    Ok(if faults.is_empty() { Exit::Done } else { Exit::Failed })
}

fn told(fault: &Fault) -> serde_json::Value {
    let Fault { page, address, offset, error } = fault;
    json!({ "page": page, "address": address, "offset": offset, "message": error.to_string() })
}

fn say(pages: u64, faults: &[Fault]) {
    if faults.is_empty() {
        let size = bytes(pages * PAGE_SIZE);
        print_line(&format!("sound: {} pages ({size}) are as they were written", grouped(pages)));
        return;
    }
    for Fault { page, address, error, .. } in faults.iter().take(TOLD) {
        print_line(&format!("page {page}, which the guest has at {address:#x}: {error}"));
    }
    if faults.len() > TOLD {
        print_line(&format!("… and {} more (--json names them all)", faults.len() - TOLD));
    }
    let count = grouped(faults.len() as u64);
    print_line(&format!(
        "DAMAGED: {count} of {} pages are not as they were written",
        grouped(pages)
    ));
}
