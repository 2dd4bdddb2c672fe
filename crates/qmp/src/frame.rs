//! Cutting a stream of bytes into commands.
//!
//! A command ends where its outermost brace closes (some clients send no newline) or at a
//! newline (so that one broken line does not swallow the lines after it). A newline inside a
//! JSON string must be escaped, so it can never be part of a command.

use crate::saved::SavedInput;

/// Furthest place in a stream that is believed. No client gets there, and what is added to it does
/// not overflow.
const FURTHEST: u64 = 1 << 62;

/// Cuts what was read into commands, whatever the pieces in which it was read.
#[derive(Debug)]
pub(crate) struct Framer {
    buffer: Vec<u8>,
    /// Where in the stream the buffer starts.
    base: u64,
    /// Where the present command starts; everything before was handed out.
    start: usize,
    /// Up to where the present command has been looked at.
    seen: usize,
    /// Where in the stream the line of the present command starts.
    line: u64,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Whether the present command starts with a brace, so that it may end with one.
    braced: bool,
    limit: usize,
}

/// A command, and where in the stream its line starts: what was sent with the blanks before a
/// command was sent with that command, and what was sent with a newline with the one before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) line: u64,
}

/// A command is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Framer {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            base: 0,
            start: 0,
            seen: 0,
            line: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            braced: false,
            limit,
        }
    }

    /// What is needed to go on in another process.
    pub(crate) fn save(&self) -> SavedInput {
        // How far into the present command it was is found out again by looking at it again.
        let Self {
            buffer,
            base,
            start,
            line,
            seen: _,
            depth: _,
            in_string: _,
            escaped: _,
            braced: _,
            limit: _,
        } = self;
        SavedInput { bytes: buffer[*start..].to_vec(), position: base + *start as u64, line: *line }
    }

    /// Goes on from there, if anything could have come there.
    pub(crate) fn restore(saved: SavedInput, limit: usize) -> Result<Self, String> {
        let SavedInput { bytes, position, line } = saved;
        if position > FURTHEST {
            return Err(format!("{position} bytes have been read"));
        }
        if line > position {
            return Err(format!(
                "its line starts at byte {line}, after the command that starts at byte {position}"
            ));
        }
        Ok(Self { buffer: bytes, base: position, line, ..Self::new(limit) })
    }

    /// Adds what was read from the socket.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Moving the rest to the front only here keeps the cost linear in what was read.
        self.buffer.drain(..self.start);
        self.base += self.start as u64;
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes were added so far.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    /// The next whole command, or `None` until more was read.
    pub(crate) fn next_command(&mut self) -> Result<Option<Frame<'_>>, TooLong> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            let first = self.seen == self.start;
            if first && byte.is_ascii_whitespace() {
                self.start += 1;
                self.seen += 1;
                if byte == b'\n' {
                    self.line = self.base + self.start as u64;
                }
                continue;
            }
            if first {
                self.braced = byte == b'{';
            }
            if byte == b'\n' {
                return Ok(Some(self.cut(self.seen)));
            }
            self.seen += 1;
            if self.seen - self.start > self.limit {
                return Err(TooLong);
            }
            if self.step(byte) {
                return Ok(Some(self.cut(self.seen)));
            }
        }
        Ok(None)
    }

    /// What is left when the client has hung up in the middle of a command.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Looks at one more byte; true when it closes the outermost brace.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.braced && self.depth == 0;
            }
            _ => {}
        }
        false
    }

    fn cut(&mut self, end: usize) -> Frame<'_> {
        let start = std::mem::replace(&mut self.start, end);
        self.seen = end;
        (self.depth, self.in_string, self.escaped) = (0, false, false);
        let line = std::mem::replace(&mut self.line, self.base + end as u64);
        Frame { bytes: &self.buffer[start..end], line }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(pieces: &[&[u8]], limit: usize) -> (Vec<(u64, Vec<u8>)>, bool) {
        let mut framer = Framer::new(limit);
        let mut all = Vec::new();
        for piece in pieces {
            framer.push(piece);
            loop {
                match framer.next_command() {
                    Ok(Some(Frame { bytes, line })) => all.push((line, bytes.to_vec())),
                    Ok(None) => break,
                    Err(TooLong) => return (all, true),
                }
            }
        }
        (all, false)
    }

    fn texts(input: &[u8], limit: usize) -> (Vec<String>, bool) {
        let (all, too_long) = frames(&[input], limit);
        (all.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect(), too_long)
    }

    #[test]
    fn a_command_ends_at_its_brace_or_at_a_newline() {
        let (got, too_long) =
            texts(b" {\"a\":\"}\\\"{\"}{}\r\n[1]\n\n  7 \n{\"b\":[{}]}{\n{}", 100);
        assert_eq!(got, ["{\"a\":\"}\\\"{\"}", "{}", "[1]", "7 ", "{\"b\":[{}]}", "{", "{}"]);
        assert!(!too_long);
    }

    #[test]
    fn a_line_starts_after_the_newline_or_brace_that_ended_the_one_before() {
        let (got, _) = frames(&[b"{} {}\r\n {}\n\n{}{}"], 100);
        let lines: Vec<u64> = got.into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [0, 2, 7, 12, 14]);
    }

    #[test]
    fn a_command_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        for (input, passes) in
            [("{\"1\":2}", true), ("{\"1\":23}", false), ("1234567\n", true), ("12345678\n", false)]
        {
            let (got, too_long) = texts(input.as_bytes(), 7);
            assert_eq!((got.len() == 1, too_long), (passes, !passes), "{input}");
        }
    }

    proptest! {
        #[test]
        fn any_split_into_reads_gives_the_same_commands(
            input in proptest::collection::vec(
                prop_oneof![
                    Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'),
                    Just(b'\n'), Just(b' '), any::<u8>(),
                ],
                0..200,
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            limit in 1usize..64,
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(input.len() + 1)).collect();
            at.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in at {
                pieces.push(&input[from..to]);
                from = to;
            }
            pieces.push(&input[from..]);
            prop_assert_eq!(frames(&pieces, limit), frames(&[&input], limit));
        }

        #[test]
        fn going_on_in_another_process_changes_no_command(
            input in proptest::collection::vec(
                prop_oneof![Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\n'), Just(b' ')],
                0..100,
            ),
            cut in any::<prop::sample::Index>(),
            taken in 0usize..4,
        ) {
            let (first, second) = input.split_at(cut.index(input.len() + 1));
            let mut framer = Framer::new(100);
            framer.push(first);
            let mut all = Vec::new();
            let mut take = |framer: &mut Framer, most: usize| {
                for _ in 0..most {
                    let Some(Frame { bytes, line }) = framer.next_command().unwrap() else { break };
                    all.push((line, bytes.to_vec()));
                }
            };
            take(&mut framer, taken);
            let mut framer = Framer::restore(framer.save(), 100).unwrap();
            prop_assert_eq!(framer.end(), first.len() as u64);
            framer.push(second);
            take(&mut framer, usize::MAX);
            prop_assert_eq!((all, false), frames(&[&input], 100));
        }
    }
}
