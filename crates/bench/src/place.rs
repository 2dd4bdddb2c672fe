//! Where a benchmark keeps files, and the guests that are in them already.

use crate::BenchError;
use crate::peer::{Peer, Spec, Way};
use crate::travel::Traveller;
use rustix::fs::{Advice, SeekFrom, fadvise, fdatasync, seek};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// By how much a trial's guests are smaller.
const TINY: u32 = 16;

/// A folder for a benchmark's files.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    tiny: bool,
    files: Mutex<BTreeMap<String, PathBuf>>,
}

impl Place {
    /// `folder` exists, and is empty. With `tiny`, guests are made a sixteenth of their size, which
    /// shows whether everything works and says nothing of how fast it is.
    #[must_use]
    pub fn new(folder: PathBuf, tiny: bool) -> Self {
        Self { folder, tiny, files: Mutex::default() }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether it is a trial, which says nothing of how fast things are.
    #[must_use]
    pub fn is_tiny(&self) -> bool {
        self.tiny
    }

    /// So many bytes, or what a trial takes instead.
    pub(crate) fn bytes(&self, bytes: u64) -> u64 {
        if self.tiny { bytes / u64::from(TINY) } else { bytes }
    }

    /// So long, or for how long a trial does it instead.
    pub(crate) fn time(&self, time: Duration) -> Duration {
        if self.tiny { time / TINY } else { time }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, PathBuf>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(peer: &dyn Peer, spec: &Spec) -> String {
        format!("{} {} {} {}", peer.name(), spec.memory, spec.vcpus, spec.cmdline)
    }

    /// A file that holds a guest of this kind, which has touched what it is to touch, and which ran
    /// when it was written. It stays for whoever asks next.
    pub(crate) fn file(&self, peer: &dyn Peer, spec: &Spec) -> Result<PathBuf, BenchError> {
        if let Some(path) = self.files().get(&Self::key(peer, spec)) {
            return Ok(path.clone());
        }
        let mut traveller = Traveller::start(peer, spec)?;
        self.file_of(&mut traveller, spec)
    }

    /// The same, of a guest that is there. It is stopped afterwards.
    pub(crate) fn file_of(
        &self,
        traveller: &mut Traveller<'_>,
        spec: &Spec,
    ) -> Result<PathBuf, BenchError> {
        let peer = traveller.peer();
        let path = {
            let files = self.files();
            self.path(&format!("{}-{}", peer.name(), files.len()))
        };
        let way = peer.writings().first().copied().unwrap_or_default();
        traveller.at.save(&path, &way)?;
        self.files().insert(Self::key(peer, spec), path.clone());
        Ok(path)
    }
}

/// Takes a file out of the page cache: none of it has to be written any more, so that anybody may.
pub(crate) fn make_cold(path: &Path) -> Result<(), BenchError> {
    let failed = || BenchError::io(format!("taking {} out of the page cache", path.display()));
    let file = File::open(path).map_err(failed())?;
    fdatasync(&file).map_err(|e| failed()(e.into()))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed()(e.into()))
}

/// Brings all data of a file into the page cache.
pub(crate) fn make_warm(path: &Path) -> Result<(), BenchError> {
    let read = || -> io::Result<()> {
        let file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        // Holes would only fill the page cache with zeroes. Past the last data there is ENXIO.
        while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
            let hole = seek(&file, SeekFrom::Hole(data))?;
            at = data;
            while at < hole {
                let most = usize::try_from(hole - at).unwrap_or(usize::MAX).min(buffer.len());
                let count = file.read_at(&mut buffer[..most], at)?;
                if count == 0 {
                    return Ok(());
                }
                at += count as u64;
            }
        }
        Ok(())
    };
    read().map_err(BenchError::io(format!("reading {}", path.display())))
}

/// Of these ways, the one that takes least, measured once each. One that fails is none, unless all do.
pub(crate) fn best(
    ways: &[Way],
    mut seconds: impl FnMut(&Way) -> Result<f64, BenchError>,
) -> Result<Way, BenchError> {
    let mut best: Option<(f64, Way)> = None;
    let mut failure = None;
    for way in ways {
        if let [only] = ways {
            return Ok(*only);
        }
        match seconds(way) {
            Ok(took) if best.as_ref().is_none_or(|(least, _)| took < *least) => {
                best = Some((took, *way));
            }
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    match (best, failure) {
        (Some((_, way)), _) => Ok(way),
        (None, Some(error)) => Err(error),
        (None, None) => Err(BenchError::Raw("there is no way to do it".into())),
    }
}

/// Seconds since then.
pub(crate) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Way; 3] = [Way::called("a"), Way::called("b"), Way::called("c")];

    #[test]
    fn the_best_way_is_the_one_that_takes_least_and_works() {
        let took = |way: &Way| match way.name {
            "a" => Ok(2.0),
            "b" => Ok(1.0),
            _ => Err(BenchError::Raw("no".into())),
        };
        assert_eq!(best(&WAYS, took).unwrap().name, "b");
        assert_eq!(best(&WAYS[2..], took).unwrap().name, "c", "there is nothing to choose from");
        let fails = |_: &Way| Err(BenchError::Raw("no".into()));
        assert!(best(&WAYS, fails).is_err() && best(&[], fails).is_err());
    }

    #[test]
    fn files_are_read_and_forgotten_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"end", 9 << 20).unwrap();
        make_warm(&path).unwrap();
        make_cold(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (9 << 20) + 3);
        assert!(make_warm(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_trial_is_smaller() {
        let place = |tiny| Place::new(PathBuf::from("/nowhere"), tiny);
        assert_eq!((place(false).bytes(32), place(true).bytes(32)), (32, 2));
    }
}
