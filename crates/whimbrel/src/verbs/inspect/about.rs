//! What a file is.

use super::{picture, time};
use crate::exit::Exit;
use crate::output::{bytes, grouped, print_json, print_line, table};
use crate::terminal::{Ink, Line, Style, wrap};
use memory::PAGE_SIZE;
use motion::MotionError;
use motion::handover::Token;
use serde::Serialize;
use serde_json::{Value, json};
use snapshot::{Apart, Claim, HeaderPage, Mark, Peek, Reader};
use state::Bundle;
use std::io::stdout;
use std::path::Path;

/// State of one schema.
#[derive(Debug, Serialize)]
struct Device {
    schema: String,
    version: u16,
    least_reader: u16,
    /// How many there are, and their bytes together.
    count: u64,
    length: u64,
}

/// `whimbrel inspect FILE`
pub fn run(
    file: &Path,
    peek: &Peek,
    reader: &Result<Reader, MotionError>,
    json: bool,
) -> anyhow::Result<Exit> {
    let devices = reader.as_ref().map(|reader| devices(reader.state())).unwrap_or_default();
    if json {
        print_json(&object(file, peek, reader, &devices))?;
        return Ok(Exit::Done);
    }
    let style = Style::of(&stdout());
    for line in table(&rows(file, peek, reader, &devices)) {
        print_line(&Line::of(line).whole(&style));
    }
    match reader {
        Ok(reader) => {
            let regions = &reader.header().regions;
            // Of RAM that is elsewhere there is nothing to show.
            let picture = match reader.apart() {
                Some(_) => Vec::new(),
                None => picture::draw(regions, reader.present(), &style),
            };
            for line in picture {
                print_line(&line.whole(&style));
            }
        }
        Err(error) => {
            for line in wrap(&format!("Cannot be restored: {}", error.why), style.width) {
                print_line(&Line::default().ink(Ink::Red, line).whole(&style));
            }
        }
    }
    Ok(Exit::Done)
}

fn devices(state: &[u8]) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    // What cannot be decoded is told by `--state`.
    for payload in Bundle::decode(state).unwrap_or_default().payloads() {
        let length = payload.data.len() as u64;
        let like = |device: &&mut Device| {
            (&device.schema, device.version) == (&payload.schema, payload.version)
        };
        match devices.iter_mut().find(like) {
            Some(device) => {
                device.count += 1;
                device.length += length;
            }
            None => devices.push(Device {
                schema: payload.schema.clone(),
                version: payload.version,
                least_reader: payload.least_reader,
                count: 1,
                length,
            }),
        }
    }
    devices
}

fn object(
    file: &Path,
    peek: &Peek,
    reader: &Result<Reader, MotionError>,
    devices: &[Device],
) -> Value {
    let Peek { page, mark, claim, sections, size, allocated } = peek;
    let regions: Vec<Value> = page
        .regions
        .iter()
        .map(|r| json!({ "address": r.address, "offset": r.offset, "length": r.length }))
        .collect();
    let sections: Vec<Value> = sections
        .iter()
        .flatten()
        .map(|section| {
            json!({
                "section": section.kind.as_str(),
                "required": section.required,
                "offset": section.offset,
                "length": section.length,
            })
        })
        .collect();
    let claim = match claim {
        Ok(None) => Value::Null,
        Ok(Some(Claim { host, boot, time, token })) => json!({
            "host": host,
            "boot": boot,
            "time": time,
            "token": Token(*token).to_string(),
        }),
        Err(damage) => json!({ "damaged": damage.to_string() }),
    };
    let completed = match mark {
        Ok(Mark::Complete(completed)) => Some(*completed),
        Ok(Mark::Missing) | Err(_) => None,
    };
    json!({
        "file": file.to_string_lossy(),
        "size": size,
        "allocated": allocated,
        "version": page.version,
        "required": page.required,
        "optional": page.optional,
        "kind": page.kind.map(|kind| kind.as_str()),
        "machine": { "name": page.name, "uuid": page.machine },
        "snapshot": page.snapshot,
        "taken": page.taken,
        "completed": completed,
        "builder": page.builder,
        "architecture": page.architecture(),
        "memory": {
            "size": page.ram,
            "backing": page.backing.map(|backing| backing.as_str()),
            "regions": regions,
            "pages": reader.as_ref().ok().map(|reader| reader.present().count()),
            "offset": page.pages_offset,
            "file": reader.as_ref().ok().and_then(Reader::apart).map(memory_file),
        },
        "claim": claim,
        "sections": sections,
        "devices": devices,
        "problem": problem(reader),
    })
}

/// The memory file that RAM is in.
fn memory_file(apart: &Apart) -> Value {
    let Apart { identity, generation, path } = apart;
    json!({ "path": path.to_string_lossy(), "identity": identity, "generation": generation })
}

/// What keeps it from being restored.
fn problem(reader: &Result<Reader, MotionError>) -> Value {
    let Err(error) = reader else { return Value::Null };
    json!({ "code": error.code, "message": error.why })
}

fn rows(
    file: &Path,
    peek: &Peek,
    reader: &Result<Reader, MotionError>,
    devices: &[Device],
) -> Vec<Vec<String>> {
    let page = &peek.page;
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    row("file", file.display().to_string());
    let kind = page.kind.map_or("of an unknown kind", |kind| kind.as_str());
    row("kind", format!("{kind}, format version {}, {}", page.version, page.architecture()));
    row("machine", format!("{} ({})", page.name, page.machine));
    row("snapshot", page.snapshot.to_string());
    row("taken", format!("{}, by version {}", time::utc(page.taken), page.builder));
    row("complete", complete(peek));
    row("continued", continued(peek));
    row("memory", memory(page, reader));
    let (size, allocated) = (bytes(peek.size), bytes(peek.allocated));
    row("size", format!("{size}, {allocated} of it on disk"));
    match &peek.sections {
        Ok(sections) => {
            let told = |section: &snapshot::Section| {
                format!("{} {}", section.kind.as_str(), bytes(section.length))
            };
            row("sections", sections.iter().map(told).collect::<Vec<_>>().join(", "));
        }
        Err(damage) => row("sections", damage.to_string()),
    }
    let device = |device: &Device| {
        let Device { schema, version, count, .. } = device;
        let name = schema.strip_prefix("whimbrel.").unwrap_or(schema);
        let times = if *count > 1 { format!(" × {count}") } else { String::new() };
        format!("{name} v{version}{times}")
    };
    if !devices.is_empty() {
        row("state", devices.iter().map(device).collect::<Vec<_>>().join(", "));
    }
    rows
}

fn complete(peek: &Peek) -> String {
    match &peek.mark {
        Ok(Mark::Complete(at)) => format!("yes, since {}", time::utc(*at)),
        Ok(Mark::Missing) => "NO: whatever wrote it did not come to the end".to_owned(),
        Err(damage) => format!("NO: {damage}"),
    }
}

fn continued(peek: &Peek) -> String {
    match &peek.claim {
        Ok(None) => "no".to_owned(),
        Ok(Some(claim)) => format!("YES, on {} at {}", claim.host, time::utc(claim.time)),
        Err(damage) => format!("perhaps: {damage}"),
    }
}

fn memory(page: &HeaderPage, reader: &Result<Reader, MotionError>) -> String {
    let backing = match page.backing.map(|backing| backing.as_str()) {
        Some("off") => "pages of 4 KiB",
        Some("thp") => "transparent huge pages",
        Some("2M") => "pages of 2 MiB",
        Some("1G") => "pages of 1 GiB",
        Some(other) => other,
        None => "pages of an unknown kind",
    };
    let size = bytes(page.ram);
    if let Some(apart) = reader.as_ref().ok().and_then(Reader::apart) {
        let Apart { path, generation, identity: _ } = apart;
        let file = path.display();
        return format!("{size} in {backing}, in the memory file {file} (generation {generation})");
    }
    match reader {
        Ok(reader) => {
            let pages = reader.present().count();
            let present = bytes(pages * PAGE_SIZE);
            format!("{size} in {backing}, {present} of it in the file ({} pages)", grouped(pages))
        }
        Err(_) => format!("{size} in {backing}"),
    }
}
