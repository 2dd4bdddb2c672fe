//! In what two snapshots differ.

use crate::exit::Exit;
use crate::output::{bytes, grouped, print_json, print_line};
use memory::{PAGE_SIZE, PageRange};
use serde_json::json;
use snapshot::{Header, Reader};
use state::{Bundle, Payload};
use std::collections::BTreeMap;

/// Most ranges that are told to people.
const TOLD: usize = 40;

/// `whimbrel inspect FILE --diff OTHER`
pub fn run(one: &Reader, other: &Reader, json: bool) -> anyhow::Result<Exit> {
    let pages = one.differences(other);
    let ranges: Vec<(u64, u64)> =
        pages.runs().flat_map(|run| addresses(larger(one, other), run)).collect();
    let state = states(one.state(), other.state());
    let (mine, theirs) = (one.header().ram(), other.header().ram());
    if json {
        let ranges: Vec<_> =
            ranges.iter().map(|(start, end)| json!({ "start": start, "end": end })).collect();
        let state: Vec<_> =
            state.iter().map(|(name, how)| json!({ "state": name, "difference": how })).collect();
        print_json(&json!({
            "pages": pages.count(),
            "ranges": ranges,
            "state": state,
            "memory": [mine, theirs],
        }))?;
        return Ok(Exit::Done);
    }
    if mine != theirs {
        print_line(&format!("RAM: {} here, {} there", bytes(mine), bytes(theirs)));
    }
    let (count, size) = (pages.count(), bytes(pages.count() * PAGE_SIZE));
    print_line(&format!("{} pages differ ({size}), in {} ranges", grouped(count), ranges.len()));
    for (start, end) in ranges.iter().take(TOLD) {
        print_line(&format!("  {start:#014x} to {end:#014x}  {}", bytes(end - start)));
    }
    if ranges.len() > TOLD {
        print_line(&format!("  … and {} more (--json names them all)", ranges.len() - TOLD));
    }
    match state.len() {
        0 => print_line("the machines' state is the same"),
        _ => state.iter().for_each(|(name, how)| print_line(&format!("{name}: {how}"))),
    }
    Ok(Exit::Done)
}

fn larger<'a>(one: &'a Reader, other: &'a Reader) -> &'a Header {
    if one.header().ram() >= other.header().ram() { one.header() } else { other.header() }
}

/// Where the guest has these pages: from and to, by region.
fn addresses(header: &Header, run: PageRange) -> impl Iterator<Item = (u64, u64)> {
    header.regions.iter().filter_map(move |region| {
        let part = region.pages().intersection(run)?;
        let start = part.offset() - region.offset + region.address;
        Some((start, start + part.bytes()))
    })
}

/// Every piece of state that is not the same on both sides, and how.
fn states(one: &[u8], other: &[u8]) -> Vec<(String, String)> {
    let (one, other) = match (Bundle::decode(one), Bundle::decode(other)) {
        (Ok(one), Ok(other)) => (one, other),
        (one, other) => {
            let broken = one.err().into_iter().chain(other.err());
            return broken.map(|error| ("state".to_owned(), error.to_string())).collect();
        }
    };
    let mut both = BTreeMap::<_, [Option<&Payload>; 2]>::new();
    for (side, bundle) in [&one, &other].into_iter().enumerate() {
        for payload in bundle.payloads() {
            both.entry((&payload.schema, &payload.instance)).or_default()[side] = Some(payload);
        }
    }
    let compared = both.into_iter().filter_map(|((schema, instance), sides)| {
        let how = match sides {
            [Some(one), Some(other)] if one.version != other.version => {
                format!("version {} here, {} there", one.version, other.version)
            }
            [Some(one), Some(other)] if one.data != other.data => "differs".to_owned(),
            [Some(_), None] => "only here".to_owned(),
            [None, Some(_)] => "only there".to_owned(),
            _ => return None,
        };
        Some((format!("{schema} {instance}").trim_end().to_owned(), how))
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(schema: &str, version: u16, data: &[u8]) -> Payload {
        let (schema, instance, data) = (schema.to_owned(), "0".to_owned(), data.to_vec());
        Payload { schema, instance, version, least_reader: 1, data, in_use: None }
    }

    fn bundle(payloads: Vec<Payload>) -> Vec<u8> {
        let mut bundle = Bundle::new();
        payloads.into_iter().for_each(|payload| bundle.put_payload(payload));
        bundle.encode()
    }

    #[test]
    fn state_is_compared_piece_by_piece() {
        let one = bundle(vec![
            payload("same", 1, b"x"),
            payload("newer", 1, b"x"),
            payload("other", 1, b"x"),
            payload("gone", 1, b"x"),
        ]);
        let other = bundle(vec![
            payload("new", 1, b"x"),
            payload("other", 1, b"y"),
            payload("newer", 2, b"x"),
            payload("same", 1, b"x"),
        ]);
        let found = states(&one, &other);
        let found: Vec<_> = found.iter().map(|(name, how)| (name.as_str(), how.as_str())).collect();
        assert_eq!(
            found,
            [
                ("gone 0", "only here"),
                ("new 0", "only there"),
                ("newer 0", "version 1 here, 2 there"),
                ("other 0", "differs"),
            ]
        );
        assert_eq!(states(b"", &one).len(), 1);
    }
}
