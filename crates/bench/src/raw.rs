//! The file of raw samples: what was measured on which machine, one JSON object a line.
//!
//! A campaign that was broken off goes on where it stood: what the file holds is not measured again.

use crate::BenchError;
use crate::host::Host;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Figures of one run by what they are of.
pub type Figures = BTreeMap<String, f64>;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Of which case.
    pub case: String,
    /// Who: `whimbrel`, `floor`, or the peer's name.
    pub who: String,
    /// What was measured; empty if it failed.
    pub figures: Figures,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What else there is to say: the guest's own line, the VMM's report.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// The machine, first.
    Host(Host),
    /// A run.
    Sample(Sample),
}

/// What has been measured so far, and the file that it goes to, if any.
#[derive(Debug, Default)]
pub struct Raw {
    samples: Vec<Sample>,
    file: Option<File>,
}

impl Raw {
    /// The file at `path`, which is made if it is not there, and read if it is.
    ///
    /// # Errors
    /// When it cannot be read or written, is no such file, or comes from another machine.
    pub fn open(path: &Path, host: &Host) -> Result<Self, BenchError> {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(BenchError::Io { doing: format!("cannot read {shown}"), source });
            }
        };
        let samples =
            read(&text, host).map_err(|why| BenchError::Raw(format!("{shown}: {why}")))?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(BenchError::io(format!("cannot write {shown}")))?;
        let mut raw = Self { samples, file: Some(file) };
        if text.is_empty() {
            raw.write(&Entry::Host(host.clone()))?;
        }
        Ok(raw)
    }

    /// All samples, in the order in which they were taken.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// How many runs of a case there are by `who` that did not fail.
    #[must_use]
    pub fn count(&self, case: &str, who: &str) -> usize {
        let counts =
            |sample: &&Sample| sample.case == case && sample.who == who && sample.error.is_none();
        self.samples.iter().filter(counts).count()
    }

    /// Adds one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, sample: Sample) -> Result<(), BenchError> {
        self.write(&Entry::Sample(sample.clone()))?;
        self.samples.push(sample);
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), BenchError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_string(entry)
            .map_err(|error| BenchError::Raw(format!("a sample cannot be written: {error}")))?;
        line.push('\n');
        file.write_all(line.as_bytes()).map_err(BenchError::io("cannot write the raw samples"))
    }
}

fn read(text: &str, host: &Host) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match serde_json::from_str(line) {
            Ok(Entry::Sample(sample)) => samples.push(sample),
            Ok(Entry::Host(there)) if there.is_like(host) => {}
            Ok(Entry::Host(_)) => {
                return Err("these samples come from another machine, kernel or build; \
                            name another file"
                    .into());
            }
            Err(error) => return Err(format!("line {number} is no sample: {error}")),
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(who: &str, error: Option<&str>) -> Sample {
        Sample {
            case: "c".into(),
            who: who.into(),
            figures: Figures::from([("blackout".into(), 1.5)]),
            error: error.map(str::to_owned),
            detail: Value::Null,
        }
    }

    #[test]
    fn what_was_measured_is_found_again_and_not_counted_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let host = Host::here();
        let mut raw = Raw::open(&path, &host).unwrap();
        raw.add(sample("whimbrel", None)).unwrap();
        raw.add(sample("whimbrel", Some("broken"))).unwrap();
        raw.add(sample("floor", None)).unwrap();
        let again = Raw::open(&path, &host).unwrap();
        assert_eq!(again.samples(), raw.samples());
        assert_eq!((again.count("c", "whimbrel"), again.count("c", "qemu")), (1, 0));
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 4, "one machine and three samples: {lines}");
    }

    #[test]
    fn a_file_of_another_machine_or_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        drop(Raw::open(&path, &Host { cpus: 4096, ..Host::here() }).unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = Raw::open(&path, &Host::here()).unwrap_err().to_string();
        assert!(error.contains("another machine"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "shopping list\n").unwrap();
        let error = Raw::open(&path, &Host::here()).unwrap_err().to_string();
        assert!(error.contains("line 1 is no sample"), "{error}");
    }
}
