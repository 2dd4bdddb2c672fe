//! The guests whose files are measured, and what several cases do with them.

use super::{Place, quiet};
use crate::BenchError;
use crate::peer::{EAGER, Peer, Process, Spec, Way};
use crate::place::{best, make_cold, make_warm, seconds};
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

/// Bytes in a GiB.
pub const GIB: f64 = 1_073_741_824.0;
/// What the full guest touches.
pub const FULL: u64 = 2 << 30;
/// What a guest needs for itself.
const OWN: u64 = 64 << 20;
/// What a guest reads when it goes on.
const SAMPLE: u64 = 64 << 20;

/// 2 GiB, all of it touched and incompressible. When it goes on it reads all of it at random.
pub fn full(place: &Place) -> Spec {
    let touch = place.bytes(FULL);
    Spec {
        memory: touch + OWN,
        vcpus: 1,
        cmdline: quiet(&format!("touch={touch} rate=0 watch=1 wake=check sample={touch}")),
    }
}

/// 1 GiB, half of it touched and incompressible. When it goes on it reads 64 MiB of that at random.
pub fn half(place: &Place) -> Spec {
    let (memory, sample) = (place.bytes(1 << 30), place.bytes(SAMPLE));
    let touch = memory / 2;
    Spec {
        memory,
        vcpus: 1,
        cmdline: quiet(&format!("touch={touch} rate=0 watch=1 wake=check sample={sample}")),
    }
}

/// So much memory, 64 MiB of it touched and incompressible. When it goes on it only says so.
pub fn sparse(place: &Place, memory: u64) -> Spec {
    let (memory, touch) = (place.bytes(memory), place.bytes(SAMPLE));
    Spec { memory, vcpus: 1, cmdline: quiet(&format!("touch={touch} rate=0 watch=1 wake=say")) }
}

/// What a rate is of, and how long it took.
pub struct Rated {
    pub bytes: u64,
    pub seconds: f64,
}

impl Rated {
    /// In GiB a second.
    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2⁵²")]
    pub fn gib_per_second(&self) -> f64 {
        self.bytes as f64 / GIB / self.seconds
    }
}

/// A VMM that takes one guest out of its file over and over.
pub struct Reader<'a> {
    peer: &'a dyn Peer,
    spec: Spec,
    file: PathBuf,
    warm: bool,
    /// How it does it.
    pub way: Way,
    /// Where its processes have their files.
    run: TempDir,
}

impl<'a> Reader<'a> {
    /// One that takes this guest out of a file that is in the page cache (`warm`), or not, in the way
    /// that suits the VMM best for that.
    pub fn new(
        peer: &'a dyn Peer,
        place: &Place,
        spec: Spec,
        warm: bool,
    ) -> Result<Self, BenchError> {
        let file = place.file(peer, &spec)?;
        let run = tempfile::tempdir().map_err(BenchError::io("cannot make a folder"))?;
        let way = Way::default();
        let mut reader = Self { peer, spec, file, warm, way, run };
        reader.way = best(peer.readings(), |way| {
            let begun = Instant::now();
            reader.restore_in(way)?.first_word()?;
            Ok(seconds(begun))
        })?;
        Ok(reader)
    }

    /// The same, eagerly where the VMM has the choice.
    pub fn eager(peer: &'a dyn Peer, place: &Place, spec: Spec) -> Result<Self, BenchError> {
        let mut reader = Self::new(peer, place, spec, false)?;
        if peer.readings().contains(&crate::peer::LAZY) {
            reader.way = EAGER;
        }
        Ok(reader)
    }

    /// A process that takes it out now.
    pub fn restore(&self) -> Result<Process<'a>, BenchError> {
        self.restore_in(&self.way)
    }

    fn restore_in(&self, way: &Way) -> Result<Process<'a>, BenchError> {
        if self.warm {
            make_warm(&self.file)?;
        } else {
            make_cold(&self.file)?;
        }
        Process::restore(self.peer, self.run.path(), "m0", &self.spec, &self.file, way)
    }
}
