//! Prints a file in the compact form in which fixtures are committed: its length, then a line for each
//! run of bytes that are not zero, with its offset and its bytes in hexadecimal.
//!
//! `cargo run -p whimbrel-snapshot --example extents -- FILE`

use std::io::Write;

/// Zeroes between two runs that are printed rather than a new line begun.
const GAP: usize = 8;
/// Most bytes on a line.
const LINE: usize = 40;

fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: extents FILE");
        std::process::exit(2);
    };
    let bytes = std::fs::read(path)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "length {}", bytes.len())?;
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(|byte| *byte != 0) {
        at += skip;
        let mut end = at + 1;
        let mut last = at;
        while end < bytes.len() && end - last <= GAP && end - at < LINE {
            if bytes[end] != 0 {
                last = end;
            }
            end += 1;
        }
        let hex: String = bytes[at..=last].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{at} {hex}")?;
        at = last + 1;
    }
    Ok(())
}
