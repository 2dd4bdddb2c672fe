//! Frames: any bytes, in any pieces.

use crate::allocation;
use crate::input::Input;
use wire::{Inbox, Item, Message, PagesHeader};

/// Reads bytes as both sides do, in pieces and at once, and compares.
///
/// # Panics
/// When pieces matter, or what was read cannot be written and read again.
pub fn run(data: &[u8]) {
    allocation::bounded(data.len(), || {
        let mut input = Input::new(data);
        let pages = input.flag().then(|| input.number());
        let piece = usize::from(input.byte()) + 1;
        let bytes = input.rest();
        let whole = items(&[bytes], pages);
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        assert_eq!(items(&pieces, pages), whole, "the pieces in which bytes come matter");
        whole.0.iter().for_each(again);
        let _ = wire::read_message(&mut &*bytes);
    });
}

/// What comes of these pieces, and whether the last of it was wrong.
fn items(pieces: &[&[u8]], pages: Option<u64>) -> (Vec<Item>, bool) {
    let mut inbox = Inbox::new();
    if let Some(pages) = pages {
        inbox.allow_pages(pages);
    }
    let mut items = Vec::new();
    for piece in pieces {
        inbox.feed(piece);
        loop {
            match inbox.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(_) => return (items, true),
            }
        }
    }
    (items, false)
}

/// What was read is written and read again.
fn again(item: &Item) {
    match item {
        Item::Message(message) => {
            let bytes = message.encode();
            let read = wire::read_message(&mut &bytes[..]).expect("it was read before");
            assert_eq!(read, *message);
            assert_eq!(Message::decode(message.kind(), &bytes[8..]).ok(), Some(read));
        }
        Item::Pages(header, contents) => {
            assert_eq!(contents.len() as u64, header.data_pages() * 4096);
            let mut bytes = Vec::new();
            header.encode_into(&mut bytes);
            assert_eq!(PagesHeader::decode(&bytes[8..], u64::MAX).ok().as_ref(), Some(header));
        }
    }
}
