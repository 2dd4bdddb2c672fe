//! A word for each chunk.

use super::state::NONE;
use std::sync::atomic::AtomicU64;

/// Chunks of a stretch: at 64 KiB each, 32 MiB of RAM.
const STRETCH: usize = 512;

type Stretch = [AtomicU64; STRETCH];

/// Where each chunk stands. Stretches without any chunk to come take no memory: nobody is to wait for
/// the kernel to clear what says that there is nothing.
#[derive(Debug)]
pub(super) struct Words {
    chunks: u64,
    stretches: Vec<Option<Box<Stretch>>>,
}

impl Words {
    pub fn new(chunks: u64) -> Self {
        let mut stretches = Vec::new();
        stretches.resize_with(place(chunks.next_multiple_of(STRETCH as u64)).0, || None);
        Self { chunks, stretches }
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The word of a chunk, to be set before anybody else sees it.
    pub fn insert(&mut self, chunk: u64) -> &mut AtomicU64 {
        let (stretch, at) = place(chunk);
        let empty = || Box::new([const { AtomicU64::new(NONE) }; STRETCH]);
        &mut self.stretches[stretch].get_or_insert_with(empty)[at]
    }

    /// The word of a chunk; `None` where none is to come for a while, or there is no such chunk.
    pub fn get(&self, chunk: u64) -> Option<&AtomicU64> {
        let (stretch, at) = place(chunk);
        self.stretches.get(stretch)?.as_ref().map(|words| &words[at])
    }

    /// The next chunk after this one that may have anything.
    pub fn after(&self, chunk: u64) -> u64 {
        let next = chunk + 1;
        let (stretch, _) = place(next);
        match self.stretches.get(stretch) {
            Some(None) => {
                let empty = self.stretches[stretch..].iter().take_while(|s| s.is_none()).count();
                ((stretch + empty) * STRETCH) as u64
            }
            _ => next,
        }
    }
}

/// Which stretch a chunk's word is in, and where in it.
#[expect(clippy::cast_possible_truncation, reason = "what has a word for each chunk is in memory")]
const fn place(chunk: u64) -> (usize, usize) {
    (chunk as usize / STRETCH, chunk as usize % STRETCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn only_stretches_with_something_have_words_and_none_of_those_is_passed_over() {
        let mut words = Words::new(3000);
        *words.insert(1500) = AtomicU64::new(7);
        assert_eq!(words.get(1500).unwrap().load(Relaxed), 7);
        assert_eq!(words.get(1501).unwrap().load(Relaxed), NONE);
        assert!(words.get(0).is_none() && words.get(2999).is_none() && words.get(5000).is_none());
        assert_eq!(words.after(0), 1024);
        assert_eq!((1024..1535).map(|at| words.after(at)).max(), Some(1535));
        assert!(words.after(1535) >= 3000 && words.after(4000) == 4001);
    }
}
