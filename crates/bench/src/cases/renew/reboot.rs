//! A guest in a memory file that goes on when the host has started anew: how long that takes from the start
//! of a process on, with 8 GiB and with 1 GiB.

use super::{Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet};
use crate::BenchError;
use crate::peer::{EAGER, Peer, Process, Spec};
use crate::travel::Traveller;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const LARGE: u64 = 8 << 30;
const SMALL: u64 = 1 << 30;

/// The case.
pub const CASE: Case = Case {
    name: "renew-reboot",
    about: "process start → guest goes on in its memory file, 8 GiB ÷ 1 GiB, half touched; warm",
    metrics: &[
        Metric { itself: Some(Goal::AtMost(1.2)), ..Metric::reported("ratio less slots", "×") },
        Metric::reported("ratio", "×"),
        Metric::reported("first word, 8 GiB", "ms"),
        Metric::reported("first word, 1 GiB", "ms"),
        Metric::reported("memory slots, 8 GiB", "ms"),
        Metric::reported("memory slots, 1 GiB", "ms"),
        Metric::reported("VMM: building, 8 GiB", "ms"),
        Metric::reported("VMM: building, 1 GiB", "ms"),
        Metric::reported("VMM: command to guest, 8 G", "ms"),
        Metric::reported("VMM: command to guest, 1 G", "ms"),
    ],
    runs: Runs { own: 15, peer: 0, floor: 0 },
    touches: touched(LARGE) + touched(SMALL),
    takes: [ms(1_500), ms(0), ms(0), ms(90_000)],
    begin,
};

/// What of so many bytes is touched.
const fn touched(memory: u64) -> u64 {
    memory / 2
}

fn begin<'a>(who: Contender<'a>, place: &'a Place) -> Result<Box<dyn Course + 'a>, BenchError> {
    let (Contender::Vmm(peer) | Contender::Floor(peer)) = who;
    Ok(Box::new(Reboot {
        large: Lasting::begin(peer, place, LARGE)?,
        small: Lasting::begin(peer, place, SMALL)?,
    }))
}

/// A guest that is in its memory file, and in no process.
struct Lasting<'a> {
    peer: &'a dyn Peer,
    spec: Spec,
    state: PathBuf,
    /// Where its processes have their files.
    run: TempDir,
}

impl<'a> Lasting<'a> {
    fn begin(peer: &'a dyn Peer, place: &Place, memory: u64) -> Result<Self, BenchError> {
        let touch = place.bytes(touched(memory));
        let cmdline = quiet(&format!("touch={touch} rate=0 watch=1 wake=say"));
        let spec = Spec { memory: place.bytes(memory), vcpus: 1, cmdline };
        let ram = place.path(&format!("{}-{memory}.ram", peer.name()));
        let state = place.path(&format!("{}-{memory}.state", peer.name()));
        Traveller::start_lasting(peer, &spec, &ram)?.at.leave(&state)?;
        let run = tempfile::tempdir().map_err(BenchError::io("cannot make a folder"))?;
        Ok(Self { peer, spec, state, run })
    }

    /// Has it go on, and leaves it again: how long it took until it spoke, and what the VMM says.
    fn go_on(&self) -> Result<(Duration, Value), BenchError> {
        let (folder, state) = (self.run.path(), &self.state);
        let mut process = Process::restore(self.peer, folder, "m0", &self.spec, state, &EAGER)?;
        let word = process.first_word()?;
        let whole = process.account()?.whole;
        process.leave(state)?;
        Ok((word, whole))
    }
}

struct Reboot<'a> {
    large: Lasting<'a>,
    small: Lasting<'a>,
}

impl Course for Reboot<'_> {
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError> {
        let (large, of_large) = self.large.go_on()?;
        let (small, of_small) = self.small.go_on()?;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let mut all = figures([
            ("first word, 8 GiB", millis(large)),
            ("first word, 1 GiB", millis(small)),
            ("ratio", millis(large) / millis(small).max(1e-9)),
        ]);
        for (name, whole, key) in [
            ("memory slots, 8 GiB", &of_large, "slots_ns"),
            ("memory slots, 1 GiB", &of_small, "slots_ns"),
            ("VMM: building, 8 GiB", &of_large, "build_ns"),
            ("VMM: building, 1 GiB", &of_small, "build_ns"),
            ("VMM: command to guest, 8 G", &of_large, "first_instruction_ns"),
            ("VMM: command to guest, 1 G", &of_small, "first_instruction_ns"),
        ] {
            let figure = whole["restore"][key].as_f64();
            all.extend(figure.map(|ns| (name.to_owned(), ns / 1e6)));
        }
        let left = |word: &str, slots: &str| Some(all.get(word)? - all.get(slots)?);
        let both = left("first word, 8 GiB", "memory slots, 8 GiB")
            .zip(left("first word, 1 GiB", "memory slots, 1 GiB"));
        let ratio = both.map(|(large, small)| large / small.max(1e-9));
        all.extend(ratio.map(|ratio| ("ratio less slots".to_owned(), ratio)));
        Ok(vec![(all, json!({ "large": of_large, "small": of_small }))])
    }
}
