//! Reading that ends at a moment, however few bytes come at a time.

use links::Stream;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Reads from a connection for so long in all: a peer that sends byte by byte gains nothing by it.
pub(crate) struct Until<'a> {
    stream: &'a Stream,
    limit: Duration,
    at: Instant,
}

impl<'a> Until<'a> {
    /// Reads for this long from now on.
    pub(crate) fn from_now(stream: &'a Stream, limit: Duration) -> Self {
        Self { stream, limit, at: Instant::now() + limit }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why = format!("it has not said all of it within {:?}", self.limit);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.stream.set_read_limit(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_peer_that_sends_byte_by_byte_gains_no_time() {
        let (here, mut there) = Stream::pair().unwrap();
        let dripping = std::thread::spawn(move || {
            // Ends when nobody reads any more.
            while there.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut from = Until::from_now(&here, Duration::from_millis(200));
        let error = from.read_exact(&mut [0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(here);
        dripping.join().unwrap();
    }
}
