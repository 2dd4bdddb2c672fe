//! Console output that has not been written yet.

use std::collections::VecDeque;

/// Most bytes that wait. It bounds memory, what a client that connects late gets to see, and what
/// travels with the machine's state.
pub const OUTPUT_CAPACITY: usize = 64 << 10;

/// A bounded queue that forgets its oldest bytes when it is full.
///
/// Bytes are known by their position in all output, so that what was written can be taken out even
/// if older bytes were forgotten meanwhile.
#[derive(Debug, Default)]
pub(super) struct Output {
    queue: VecDeque<u8>,
    /// Position of the first byte in the queue.
    start: u64,
    forgotten: u64,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() == OUTPUT_CAPACITY
    }

    /// How many bytes were forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Counts what was forgotten elsewhere.
    pub fn add_forgotten(&mut self, count: u64) {
        self.forgotten = self.forgotten.saturating_add(count);
    }

    pub fn push(&mut self, byte: u8) {
        if self.is_full() {
            self.queue.pop_front();
            self.start += 1;
            self.forgotten += 1;
        }
        self.queue.push_back(byte);
    }

    /// Copies the oldest bytes, at most a buffer full: their position and their number.
    pub fn peek(&self, buffer: &mut [u8]) -> (u64, usize) {
        let (older, newer) = self.queue.as_slices();
        let first = older.len().min(buffer.len());
        let second = newer.len().min(buffer.len() - first);
        buffer[..first].copy_from_slice(&older[..first]);
        buffer[first..first + second].copy_from_slice(&newer[..second]);
        (self.start, first + second)
    }

    /// Takes out what was written: everything before this position.
    pub fn written_up_to(&mut self, position: u64) {
        let count = position.saturating_sub(self.start);
        let count = usize::try_from(count).map_or(self.queue.len(), |c| c.min(self.queue.len()));
        self.queue.drain(..count);
        self.start += count as u64;
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        self.start += self.queue.len() as u64;
        self.queue.clear();
    }

    /// Everything, oldest first.
    pub fn to_vec(&self) -> Vec<u8> {
        let (older, newer) = self.queue.as_slices();
        [older, newer].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_queue_keeps_the_most_recent_output() {
        let mut output = Output::default();
        for i in 0..OUTPUT_CAPACITY + 3 {
            output.push(i.to_le_bytes()[0]);
        }
        let kept = output.to_vec();
        assert_eq!((kept.len(), kept[0], output.forgotten()), (OUTPUT_CAPACITY, 3, 3));
    }

    #[test]
    fn bytes_forgotten_while_they_were_written_are_not_taken_out_twice() {
        let mut output = Output::default();
        for _ in 0..OUTPUT_CAPACITY {
            output.push(1);
        }
        let (position, count) = output.peek(&mut [0; 100]);
        for _ in 0..60 {
            output.push(2);
        }
        output.written_up_to(position + count as u64);
        assert_eq!(output.to_vec().len(), OUTPUT_CAPACITY - 40);
    }

    proptest! {
        #[test]
        fn what_is_written_in_any_steps_is_what_was_pushed(
            steps in proptest::collection::vec((0usize..50, 0usize..50), 1..40),
        ) {
            let (mut output, mut pushed, mut written) = (Output::default(), 0u8, Vec::new());
            for (push, write) in steps {
                for _ in 0..push {
                    output.push(pushed);
                    pushed = pushed.wrapping_add(1);
                }
                let mut buffer = [0; 50];
                let (position, count) = output.peek(&mut buffer[..write]);
                written.extend(&buffer[..count]);
                output.written_up_to(position + count as u64);
            }
            written.extend(output.to_vec());
            let expected: Vec<u8> = (0..written.len()).map(|i| i.to_le_bytes()[0]).collect();
            prop_assert_eq!(written, expected);
        }
    }
}
