//! One page, byte by byte.

use crate::exit::Exit;
use crate::output::{print_json, print_line};
use crate::units::Size;
use memory::{Layout, PAGE_SIZE, PageRange};
use monitor::Error;
use serde_json::json;
use snapshot::{Buffer, Reader};
use state::Code;

const ROW: usize = 16;

/// A guest-physical address: `0x100000`, `1M`, or bytes.
pub fn address(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(&digits.replace('_', ""), 16)
            .map_err(|_| format!("`{text}` is no address: write 0x100000, or 1M")),
        None => text.parse::<Size>().map(|size| size.0).map_err(|error| error.to_string()),
    }
}

/// `whimbrel inspect FILE --page ADDRESS`
pub fn run(reader: &Reader, address: u64, json: bool) -> anyhow::Result<Exit> {
    let layout = Layout::new(reader.header().ram(), PAGE_SIZE)?;
    let page = layout.page_at(address).ok_or_else(|| {
        let what = format!("the guest has no RAM at {address:#x}");
        Error::new(Code::InvalidArgument, what)
    })?;
    let mut buffer = Buffer::new(1);
    let read = reader.read(PageRange::new(page, 1), &mut buffer);
    read.map_err(super::error)?;
    let start = address / PAGE_SIZE * PAGE_SIZE;
    let is_present = reader.present().contains(page);
    if json {
        let hex: String = buffer.as_slice().iter().map(|byte| format!("{byte:02x}")).collect();
        print_json(&json!({
            "address": start,
            "page": page,
            "offset": reader.place_of(page),
            "present": is_present,
            "hex": hex,
        }))?;
        return Ok(Exit::Done);
    }
    let place = match is_present {
        true => format!("at {:#x} in the file", reader.place_of(page)),
        false => "not in the file: it is zero".to_owned(),
    };
    print_line(&format!("page {page}, {place}"));
    for line in dump(start, buffer.as_slice()) {
        print_line(&line);
    }
    Ok(Exit::Done)
}

/// Rows of 16 bytes; a `*` stands for rows that are like the one before.
fn dump(start: u64, bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut before: &[u8] = &[];
    for (address, row) in (start..).step_by(ROW).zip(bytes.chunks(ROW)) {
        if row != before {
            lines.push(line(address, row));
        } else if lines.last().is_none_or(|line| line != "*") {
            lines.push("*".to_owned());
        }
        before = row;
    }
    lines.push(format!("{:012x}", start + bytes.len() as u64));
    lines
}

fn line(address: u64, row: &[u8]) -> String {
    let hex: Vec<String> = row
        .chunks(ROW / 2)
        .map(|half| half.iter().map(|byte| format!(" {byte:02x}")).collect())
        .collect();
    let text: String = row
        .iter()
        .map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' })
        .collect();
    format!("{address:012x} {}  |{text}|", hex.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal_or_sizes() {
        assert_eq!(address("0x100000"), Ok(1 << 20));
        assert_eq!(address("1M"), Ok(1 << 20));
        assert_eq!(address("4096"), Ok(4096));
        assert!(address("0xg").is_err() && address("").is_err() && address("0x").is_err());
    }

    #[test]
    fn rows_that_repeat_are_told_once() {
        let mut page = [0; 64];
        page[3] = b'A';
        assert_eq!(
            dump(0x1000, &page),
            [
                "000000001000  00 00 00 41 00 00 00 00  00 00 00 00 00 00 00 00  |...A............|",
                "000000001010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
                "*",
                "000000001040",
            ]
        );
    }
}
