//! Raw TCP: the same bytes over plain connections into equally fresh memory.
//!
//! The floor of moving RAM. A thread for each connection writes from one memory file's mapping, a
//! thread for each reads into another's, as large calls as there can be, and nothing else happens.

use crate::BenchError;
use crate::procfs::cpu_time;
use memory::{Backing, GuestRam, PAGE_SIZE, PageRange};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use vm_memory::{ReadVolatile, WriteVolatile};

/// How many connections are tried; the best counts.
const CONNECTIONS: [u64; 3] = [1, 2, 4];

/// What the same bytes took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// Connections that were fastest.
    pub connections: u64,
    /// From the first byte sent to the last received.
    pub total: Duration,
    /// Time on processors, both sides.
    pub cpu: Duration,
}

/// Memory full of bytes that do not compress.
pub struct Source(GuestRam);

impl Source {
    /// So many bytes.
    pub fn new(size: u64) -> Result<Self, BenchError> {
        let ram = GuestRam::new(size, Backing::Small)?;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut page = [0; 4096];
        for number in 0..ram.pages() {
            for word in page.chunks_exact_mut(8) {
                // xorshift64*: what nobody compresses
                seed ^= seed >> 12;
                seed ^= seed << 25;
                seed ^= seed >> 27;
                word.copy_from_slice(&seed.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
            }
            let slice = ram.slice(PageRange::new(number, 1)).map_err(BenchError::io("filling"))?;
            slice.copy_from(&page);
        }
        Ok(Self(ram))
    }

    /// Sends all of it, over each number of connections; the best.
    pub fn send(&self) -> Result<Raw, BenchError> {
        let mut best: Option<Raw> = None;
        for connections in CONNECTIONS {
            let raw = self.over(connections)?;
            if best.is_none_or(|best| raw.total < best.total) {
                best = Some(raw);
            }
        }
        best.ok_or_else(|| BenchError::Raw("no connection was tried".into()))
    }

    fn over(&self, connections: u64) -> Result<Raw, BenchError> {
        let failed = || BenchError::io("raw TCP on the loopback interface");
        let into = GuestRam::new(self.0.layout().size(), Backing::Small)?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let mut pairs = Vec::new();
        for _ in 0..connections {
            let from = TcpStream::connect(address).map_err(failed())?;
            let (to, _) = listener.accept().map_err(failed())?;
            pairs.push((from, to));
        }
        let share = self.0.pages() / connections;
        let me = std::process::id();
        let (spent, begin) = (cpu_time(me)?, Instant::now());
        let all = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (index, (mut from, mut to)) in (0..).zip(pairs) {
                let range = PageRange::new(index * share, share);
                let (source, into) = (&self.0, &into);
                threads.push(scope.spawn(move || {
                    each_part(range, source, |part| Ok(from.write_all_volatile(&part)?))
                }));
                threads.push(scope.spawn(move || {
                    each_part(range, into, |mut part| Ok(to.read_exact_volatile(&mut part)?))
                }));
            }
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        let total = begin.elapsed();
        all.map_err(failed())?;
        Ok(Raw { connections, total, cpu: cpu_time(me)?.saturating_sub(spent) })
    }
}

/// Calls `act` for each MiB of `range`.
fn each_part(
    range: PageRange,
    ram: &GuestRam,
    mut act: impl FnMut(vm_memory::VolatileSlice<'_>) -> Result<(), Failed>,
) -> std::io::Result<()> {
    const PART: u64 = (1 << 20) / PAGE_SIZE;
    let mut start = range.start;
    while start < range.end() {
        let part = PageRange::new(start, PART.min(range.end() - start));
        act(ram.slice(part)?).map_err(|Failed(e)| e)?;
        start = part.end();
    }
    Ok(())
}

/// An error of vm-memory as one of the system.
struct Failed(std::io::Error);

impl From<vm_memory::VolatileMemoryError> for Failed {
    fn from(error: vm_memory::VolatileMemoryError) -> Self {
        match error {
            vm_memory::VolatileMemoryError::IOError(e) => Self(e),
            other => Self(std::io::Error::other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_whatever_the_number_of_connections() {
        let source = Source::new(16 << 20).unwrap();
        let raw = source.send().unwrap();
        assert!(CONNECTIONS.contains(&raw.connections) && raw.total > Duration::ZERO);
    }
}
