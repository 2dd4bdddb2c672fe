//! Cutting a stream of bytes into commands.
//!
//! A command ends where its outermost brace closes (some clients send no newline) or at a
//! newline (so that one broken line does not swallow the lines after it). A newline inside a
//! JSON string must be escaped, so it can never be part of a command.

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
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Whether the present command starts with a brace, so that it may end with one.
    braced: bool,
    limit: usize,
}

/// A command, and where in the stream it starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: u64,
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
            depth: 0,
            in_string: false,
            escaped: false,
            braced: false,
            limit,
        }
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
        Frame { bytes: &self.buffer[start..end], at: self.base + start as u64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(pieces: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, bool) {
        let mut framer = Framer::new(limit);
        let mut all = Vec::new();
        for piece in pieces {
            framer.push(piece);
            loop {
                match framer.next_command() {
                    Ok(Some(Frame { bytes, at })) => {
                        let at = usize::try_from(at).unwrap();
                        assert_eq!(pieces.concat()[at..at + bytes.len()], *bytes);
                        all.push(bytes.to_vec());
                    }
                    Ok(None) => break,
                    Err(TooLong) => return (all, true),
                }
            }
        }
        (all, false)
    }

    #[test]
    fn a_command_ends_at_its_brace_or_at_a_newline() {
        let input = b" {\"a\":\"}\\\"{\"}{}\r\n[1]\n\n  7 \n{\"b\":[{}]}{\n{}";
        let (got, too_long) = frames(&[input], 100);
        let want: [&[u8]; 7] =
            [b"{\"a\":\"}\\\"{\"}", b"{}", b"[1]", b"7 ", b"{\"b\":[{}]}", b"{", b"{}"];
        assert_eq!(got, want);
        assert!(!too_long);
    }

    #[test]
    fn a_command_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(frames(&[b"{\"1\":2}"], 7), (vec![b"{\"1\":2}".to_vec()], false));
        assert_eq!(frames(&[b"{\"1\":23}"], 7), (vec![], true));
        assert_eq!(frames(&[b"1234567\n"], 7), (vec![b"1234567".to_vec()], false));
        assert_eq!(frames(&[b"12345678\n"], 7), (vec![], true));
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
    }
}
