//! Frames out of bytes that arrive in any pieces.

use crate::{FrameError, Header, Kind, Message, PagesHeader};
use memory::PAGE_SIZE;

/// One thing that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Message),
    /// Pages, with the contents of the data runs, in order.
    Pages(PagesHeader, Vec<u8>),
}

/// Collects the bytes of a connection on which messages are expected, and gives them out as whole
/// frames. So nobody waits for the second half of a frame, whatever the peer does.
///
/// What it holds is bounded by the longest frame plus the contents that one frame can announce.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Size of the guest's RAM in pages; pages are refused until it is known.
    ram_pages: Option<u64>,
}

impl Inbox {
    /// An empty one, which takes no pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes pages from now on, of a guest with this many.
    pub fn allow_pages(&mut self, ram_pages: u64) {
        self.ram_pages = Some(ram_pages);
    }

    /// Adds bytes as they arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether it holds a part of a frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the bytes cannot become a frame any more.
    pub fn next_item(&mut self) -> Result<Option<Item>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<{ Header::SIZE }>() else { return Ok(None) };
        let header = Header::decode(*header)?;
        if header.kind == Kind::Pages && self.ram_pages.is_none() {
            return Err(FrameError::Unexpected { got: Kind::Pages, expected: "a message" });
        }
        let length = usize::try_from(header.length).map_err(std::io::Error::other)?;
        let end = Header::SIZE + length;
        let Some(body) = self.bytes.get(Header::SIZE..end) else { return Ok(None) };
        let (item, end) = match (header.kind, self.ram_pages) {
            (Kind::Pages, Some(ram_pages)) => {
                let pages = PagesHeader::decode(body, ram_pages)?;
                let contents = usize::try_from(pages.data_pages() * PAGE_SIZE)
                    .map_err(std::io::Error::other)?;
                let Some(contents) = self.bytes.get(end..end + contents) else { return Ok(None) };
                (Item::Pages(pages, contents.to_vec()), end + contents.len())
            }
            (kind, _) => (Item::Message(Message::decode(kind, body)?), end),
        };
        self.bytes.drain(..end);
        Ok(Some(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Run};
    use memory::PageRange;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_split_gives_the_same_items(cuts in proptest::collection::vec(1usize..9000, 1..30)) {
            let mut bytes = Message::Ping(1).encode();
            let run = |start, content| Run { range: PageRange::new(start, 2), content };
            let pages = PagesHeader {
                pass: 3,
                runs: vec![run(4, Content::Data), run(9, Content::Zero)],
            };
            pages.encode_into(&mut bytes);
            let contents: Vec<u8> = (0..8192u32).map(|i| i.to_le_bytes()[0]).collect();
            bytes.extend_from_slice(&contents);
            bytes.extend_from_slice(&Message::PassDone(3).encode());
            let mut inbox = Inbox::new();
            inbox.allow_pages(64);
            let mut items = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                inbox.feed(now);
                while let Some(item) = inbox.next_item().unwrap() {
                    items.push(item);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(inbox.is_empty());
            prop_assert_eq!(items, vec![
                Item::Message(Message::Ping(1)),
                Item::Pages(pages, contents),
                Item::Message(Message::PassDone(3)),
            ]);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut inbox = Inbox::new();
            inbox.feed(&bytes);
            while let Ok(Some(_)) = inbox.next_item() {}
        }
    }

    #[test]
    fn pages_are_refused_before_ram_is_known() {
        let mut inbox = Inbox::new();
        let mut bytes = Vec::new();
        PagesHeader::default().encode_into(&mut bytes);
        inbox.feed(&bytes);
        assert!(matches!(inbox.next_item(), Err(FrameError::Unexpected { .. })));
    }
}
