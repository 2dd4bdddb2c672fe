//! What a peer declares costs nothing: memory follows what has come.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cap::Cap;
use memory::{Layout, LayoutError, PAGE_SIZE};
use state::Bundle;
use std::alloc::System;
use whimbrel_wire as wire;
use wire::{FrameError, Header, Inbox, Kind, Message, PagesHeader};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Allowed to read a few bytes: the first piece of a body, and an error.
const LITTLE: usize = 128 << 10;
/// In CBOR, the head of an array, a byte string, a text and a map of 2⁶⁰ things each.
const HEADS: [u8; 4] = [0x9b, 0x5b, 0x7b, 0xbb];

/// A process that allocates more is aborted: the test fails.
fn costs_little<T>(work: impl FnOnce() -> T) -> T {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + LITTLE).unwrap();
    let result = work();
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    result
}

// One test: the limit is the whole process's.
#[test]
fn a_peer_that_declares_more_than_there_is_gets_an_error_and_costs_nothing() {
    // Bodies of the longest length, of which nothing comes.
    for kind in [Kind::Describe, Kind::State, Kind::Refused, Kind::Hello, Kind::Pages] {
        let header = Header { kind, length: kind.longest() };
        let result = costs_little(|| header.read_body(&mut std::io::empty()));
        assert!(matches!(result, Err(FrameError::Io(_))), "{kind:?}");
        let mut inbox = Inbox::new();
        inbox.allow_pages(1 << 60);
        inbox.feed(&header.encode());
        assert!(matches!(costs_little(|| inbox.next_item()), Ok(None)), "{kind:?}");
    }
    // 2⁶⁰ pages: as RAM, as a run, as a number of runs.
    for size in [(1u64 << 60).saturating_mul(PAGE_SIZE), 1 << 60, (64 << 40) + PAGE_SIZE] {
        assert_eq!(costs_little(|| Layout::new(size, PAGE_SIZE)), Err(LayoutError::TooLarge(size)));
    }
    let run = |start: u64, count: u32| {
        let words = [&start.to_le_bytes()[..], &count.to_le_bytes(), &0u32.to_le_bytes()].concat();
        [&1u32.to_le_bytes()[..], &1u32.to_le_bytes(), &words].concat()
    };
    for body in [run(1 << 60, 1), run(0, u32::MAX), [&[1, 0, 0, 0], &[0xff; 4][..]].concat()] {
        assert!(costs_little(|| PagesHeader::decode(&body, 4096)).is_err());
        // Even where so many would be RAM.
        assert!(costs_little(|| PagesHeader::decode(&body, 1 << 50)).is_err());
    }
    // 2⁶⁰ of whatever a message is made of, alone and within a map's first field.
    for head in HEADS {
        let many = [&[head, 0x10][..], &[0; 7]].concat();
        let within = [&[0xa1, 0x00][..], &many].concat();
        for body in [&many, &within] {
            for kind in [Kind::Refused, Kind::Describe, Kind::State, Kind::Failed, Kind::Hello] {
                assert!(
                    costs_little(|| Message::decode(kind, body)).is_err(),
                    "{kind:?} {body:x?}"
                );
            }
            assert!(costs_little(|| Bundle::decode(body)).is_err(), "{body:x?}");
        }
    }
}
