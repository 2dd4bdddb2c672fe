//! What storage can do by itself: fio, with `O_DIRECT`, in the same folder. Where there is no fio, a
//! plain reader and writer of our own.

use crate::BenchError;
use crate::place::seconds;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use snapshot::Buffer;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// What it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// To write a file that is not there yet, and make it durable.
    Write,
    /// To read a part of a file that is there.
    Read {
        /// Where that begins, in bytes.
        from: u64,
    },
}

/// How fast it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Bytes a second.
    pub bytes: f64,
    /// By what.
    pub by: Value,
}

/// Ways to keep storage busy: an engine of fio, its depth, and its jobs. The best counts.
const ENGINES: [(&str, u32, u64); 3] = [("io_uring", 16, 1), ("libaio", 16, 1), ("psync", 1, 4)];
const BLOCK: u64 = 1 << 20;
/// Threads of our own that read or write.
const THREADS: u64 = 4;

/// Has storage do `work` on so many bytes, a multiple of 4 MiB, of the file `name` in `folder`.
///
/// # Errors
/// [`BenchError`] when none of the ways works.
pub fn measure(folder: &Path, name: &str, work: Work, bytes: u64) -> Result<Rate, BenchError> {
    if !has_fio() {
        let rate = plain(&folder.join(name), work, bytes)
            .map_err(BenchError::io(format!("reading or writing {name} with O_DIRECT")))?;
        let by = format!("{THREADS} threads of our own (fio is not installed)");
        return Ok(Rate { bytes: rate, by: json!(by) });
    }
    let mut best: Option<Rate> = None;
    let mut failure = None;
    for engine in ENGINES {
        match fio(folder, name, work, bytes, engine) {
            Ok(rate) if best.as_ref().is_none_or(|best| rate > best.bytes) => {
                let (engine, depth, jobs) = engine;
                let by = json!({ "fio": engine, "iodepth": depth, "numjobs": jobs });
                best = Some(Rate { bytes: rate, by });
            }
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    match (best, failure) {
        (Some(best), _) => Ok(best),
        (None, Some(error)) => Err(error),
        (None, None) => Err(BenchError::Raw("fio has no engine".into())),
    }
}

fn has_fio() -> bool {
    let quiet = || Stdio::null();
    let mut fio = Command::new("fio");
    fio.arg("--version").stdin(quiet()).stdout(quiet()).stderr(quiet());
    fio.status().is_ok_and(|status| status.success())
}

fn fio(
    folder: &Path,
    name: &str,
    work: Work,
    bytes: u64,
    (engine, depth, jobs): (&str, u32, u64),
) -> Result<f64, BenchError> {
    let mut command = Command::new("fio");
    // A name within the folder: in a path, fio takes some characters for its own.
    command.current_dir(folder).args(["--name=floor", "--direct=1", "--bs=1M"]);
    command.args(["--group_reporting", "--output-format=json", "--thread"]);
    command.arg(format!("--filename={name}"));
    command.arg(format!("--ioengine={engine}")).arg(format!("--iodepth={depth}"));
    command.arg(format!("--numjobs={jobs}")).arg(format!("--size={}", bytes / jobs));
    let from = match work {
        Work::Write => {
            // What is there would be written over, which is not the same.
            remove(&folder.join(name))?;
            command.args(["--rw=write", "--end_fsync=1"]);
            0
        }
        Work::Read { from } => {
            command.args(["--rw=read", "--readonly"]);
            from
        }
    };
    command.arg(format!("--offset={from}")).arg(format!("--offset_increment={}", bytes / jobs));
    let output = command.stdin(Stdio::null()).output().map_err(BenchError::io("running fio"))?;
    if work == Work::Write {
        remove(&folder.join(name))?;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    rate(&text, work).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        BenchError::Raw(format!("fio with {engine} says nothing of its rate: {}", said.trim()))
    })
}

/// Bytes a second in what fio says.
fn rate(text: &str, work: Work) -> Option<f64> {
    let direction = if work == Work::Write { "write" } else { "read" };
    // It may say something before that.
    let said: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    said["jobs"][0][direction]["bw_bytes"].as_f64().filter(|rate| *rate > 0.0)
}

fn remove(path: &Path) -> Result<(), BenchError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(BenchError::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// The same without fio.
fn plain(path: &Path, work: Work, bytes: u64) -> io::Result<f64> {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::DIRECT.bits().cast_signed());
    let (file, from): (File, u64) = match work {
        Work::Write => (options.write(true).create_new(true).open(path)?, 0),
        Work::Read { from } => (options.read(true).open(path)?, from),
    };
    let next = AtomicU64::new(0);
    let one = || -> io::Result<()> {
        let mut buffer = Buffer::new(BLOCK / memory::PAGE_SIZE);
        loop {
            let at = next.fetch_add(BLOCK, Ordering::Relaxed);
            if at >= bytes {
                return Ok(());
            }
            match work {
                Work::Write => file.write_all_at(buffer.as_slice(), from + at)?,
                Work::Read { .. } => file.read_exact_at(buffer.as_mut_slice(), from + at)?,
            }
        }
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        let all: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        all.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    if work == Work::Write {
        file.sync_all()?;
    }
    let took = seconds(begun);
    if work == Work::Write {
        std::fs::remove_file(path)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2⁵²")]
    Ok(bytes as f64 / took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_found_in_what_fio_says() {
        let text =
            "fio: hint\n{\"jobs\": [{\"write\": {\"bw_bytes\": 7}, \"read\": {\"bw_bytes\": 0}}]}";
        assert_eq!(rate(text, Work::Write), Some(7.0));
        assert_eq!(rate(text, Work::Read { from: 0 }), None);
        assert_eq!(rate("no engine", Work::Write), None);
    }

    #[test]
    fn storage_is_read_and_written_with_and_without_fio() {
        // Not in memory, where the kernel may know no O_DIRECT.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(folder.path().join("f"), vec![1; 9 << 20]).unwrap();
        let (read, size) = (Work::Read { from: 1 << 20 }, 8 << 20);
        assert!(measure(folder.path(), "f", read, size).unwrap().bytes > 0.0);
        assert!(measure(folder.path(), "g", Work::Write, size).unwrap().bytes > 0.0);
        assert!(plain(&folder.path().join("f"), read, size).unwrap() > 0.0);
        assert!(plain(&folder.path().join("g"), Work::Write, size).unwrap() > 0.0);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "what was written is removed");
    }
}
