//! The kernel's log, from `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

/// Every message that the kernel still has, as `SECONDS MESSAGE`.
pub fn read() -> Result<Vec<String>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open("/dev/kmsg")
        .context("cannot open /dev/kmsg")?;
    let mut messages = Vec::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(messages),
            Ok(length) => {
                messages.extend(message(&String::from_utf8_lossy(&record[..length])));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(messages),
            // Records were overwritten before we came to them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error).context("cannot read /dev/kmsg"),
        }
    }
}

/// `level,sequence,microseconds,flags;message`, then lines with further fields that begin with a
/// space. Control characters are written as `\x1b` in the log already.
fn message(record: &str) -> Option<String> {
    let (prefix, rest) = record.split_once(';')?;
    let microseconds: u64 = prefix.split(',').nth(2)?.parse().ok()?;
    let text = rest.lines().next().unwrap_or_default();
    Some(format!("{}.{:06} {text}", microseconds / 1_000_000, microseconds % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_time_and_message() {
        let record = "6,339,5140900,-;NET: Registered; family 10\n SUBSYSTEM=net\n";
        assert_eq!(message(record).as_deref(), Some("5.140900 NET: Registered; family 10"));
        assert_eq!(message("no record"), None);
    }
}
