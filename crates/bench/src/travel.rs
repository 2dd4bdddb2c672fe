//! A guest that travels on from process to process.
//!
//! One guest makes all the moves of a case, each to a new process, so that its memory need be touched
//! but once; while another VMM has its turn it rests, stopped.

use crate::BenchError;
use crate::peer::{Account, Peer, Plan, Process, Spec, Successor, Way};
use crate::procfs::cpu_time;
use crate::talk::Said;
use guest::report::Pause;
use serde_json::{Value, json};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A move that takes longer than this is given up, unless said otherwise.
const LONGEST: Duration = Duration::from_secs(120);
/// How long it may take to give up.
const CANCELLING: Duration = Duration::from_secs(10);
/// How long a guest may take to touch its memory.
const TOUCHING: Duration = Duration::from_secs(300);
/// How a move stands that takes too long.
const UNDER_WAY: &str = "still under way";
/// Size of a page in bytes.
const PAGE: u64 = memory::PAGE_SIZE;

/// A guest on its way.
pub struct Traveller<'a> {
    peer: &'a dyn Peer,
    spec: Spec,
    /// Where it is.
    pub at: Process<'a>,
    /// How snapshots are taken of it.
    pub way: Way,
    /// A move that takes longer is given up.
    pub patience: Duration,
    moves: u32,
    place: TempDir,
}

/// One move, or snapshot, that completed.
pub struct Hop {
    /// What the guest said when it had arrived, of the time since it was asked before the start.
    pub after: Said,
    /// What it had said before.
    pub before: Said,
    /// From the command to the end, by the benchmark's clock.
    pub total: Duration,
    /// What the VMM says.
    pub account: Account,
}

/// What the guest of these parameters touches once, and over and over, in pages.
fn touches(cmdline: &str) -> (u64, u64) {
    let params = guest::Builtin::Workload.parse(cmdline);
    params.map_or((0, 0), |params| {
        let set = if params.rate == Some(0) { 0 } else { params.ws.unwrap_or(0) };
        (params.touch / PAGE, set / PAGE)
    })
}

impl<'a> Traveller<'a> {
    /// Starts the guest, and returns when it has touched all that it is to touch.
    pub fn start(peer: &'a dyn Peer, spec: &Spec) -> Result<Self, BenchError> {
        Self::begin(peer, spec, |place| Process::start(peer, place, "m0", spec, false))
    }

    /// The same, with its RAM in the file `ram`, which is new, and from which it can go on later.
    pub fn start_lasting(peer: &'a dyn Peer, spec: &Spec, ram: &Path) -> Result<Self, BenchError> {
        Self::begin(peer, spec, |place| Process::start_lasting(peer, place, "m0", spec, ram))
    }

    fn begin(
        peer: &'a dyn Peer,
        spec: &Spec,
        start: impl FnOnce(&Path) -> Result<Process<'a>, BenchError>,
    ) -> Result<Self, BenchError> {
        let place = tempfile::tempdir().map_err(BenchError::io("cannot make a folder"))?;
        let at = start(place.path())?;
        let spec = spec.clone();
        let (way, patience) = (Way::default(), LONGEST);
        let mut traveller = Self { peer, spec, at, way, patience, moves: 0, place };
        traveller.at.talk.hello()?;
        let (once, set) = touches(&traveller.spec.cmdline);
        let deadline = Instant::now() + TOUCHING;
        loop {
            let work = traveller.at.talk.ask()?.work;
            if work.touched >= once && work.pages >= set {
                return Ok(traveller);
            }
            if Instant::now() >= deadline {
                let when = "of having touched its memory";
                return Err(BenchError::Silent { peer: peer.name(), when });
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The VMM that it is under.
    pub fn peer(&self) -> &'a dyn Peer {
        self.peer
    }

    /// Waits until the guest has written its whole working set once more, so that a host which maps
    /// its memory by and by has done so again.
    pub fn settle(&mut self) -> Result<(), BenchError> {
        let (_, set) = touches(&self.spec.cmdline);
        let begin = self.at.talk.ask()?.work.pages;
        let deadline = Instant::now() + TOUCHING;
        while self.at.talk.ask()?.work.pages < begin + set && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Pages a second that the guest writes when nobody disturbs it, over so long.
    pub fn pace(&mut self, over: Duration) -> Result<f64, BenchError> {
        let before = self.at.talk.ask()?;
        thread::sleep(over);
        Ok(pace(&before, &self.at.talk.ask()?))
    }

    /// A process that waits for the guest, and where.
    pub fn destination(&mut self, plan: &Plan) -> Result<(Process<'a>, String), BenchError> {
        self.moves += 1;
        let name = format!("m{}", self.moves);
        let mut to = Process::start(self.peer, self.place.path(), &name, &self.spec, true)?;
        let address = to.expect_guest(plan)?;
        Ok((to, address))
    }

    /// Moves the guest to a new process, and asks it before and after.
    pub fn hop(&mut self, plan: &Plan) -> Result<Hop, BenchError> {
        let (mut to, address) = self.destination(plan)?;
        let before = self.at.talk.ask()?;
        let (total, account) = self.go(&mut to, &address, plan)?;
        let after = to.talk.ask()?;
        // The old process is gone, and its memory free, before anything else is measured.
        self.at = to;
        Ok(Hop { after, before, total, account })
    }

    /// Has a new process take the place of the one that the guest is in, and asks the guest before and
    /// after.
    pub fn renew(&mut self) -> Result<Hop, BenchError> {
        let (before, total, account) = self.succeed()?;
        let after = self.at.talk.ask()?;
        Ok(Hop { after, before, total, account })
    }

    /// The same with a guest that tells of its pauses (`wake=tell`); what it tells of this one. It is asked
    /// a second after that.
    pub fn renew_and_watch(&mut self) -> Result<(Hop, Pause), BenchError> {
        let (before, total, account) = self.succeed()?;
        let pause = self.at.talk.pause()?;
        let after = self.at.talk.ask()?;
        Ok((Hop { after, before, total, account }, pause))
    }

    fn succeed(&mut self) -> Result<(Said, Duration, Account), BenchError> {
        self.moves += 1;
        let name = format!("m{}", self.moves);
        let next = Successor::start(self.peer, self.place.path(), &name, &self.spec)?;
        let before = self.at.talk.ask()?;
        let (total, account) = self.at.renew(next)?;
        Ok((before, total, account))
    }

    /// Has the guest's process become another program, under a guest that tells of its pauses
    /// (`wake=tell`) and has told of all so far: what it tells of both of these. It is asked before, and
    /// a second after that.
    pub fn renew_in_place(&mut self) -> Result<(Hop, [Pause; 2]), BenchError> {
        let before = self.at.talk.ask()?;
        let (total, account) = self.at.renew_in_place()?;
        let pauses = [self.at.talk.pause()?, self.at.talk.pause()?];
        let after = self.at.talk.ask()?;
        Ok((Hop { after, before, total, account }, pauses))
    }

    /// Lets a guest go on that was stopped and tells of its pauses; it has told of this one when this
    /// returns.
    pub fn wake(&mut self) -> Result<(), BenchError> {
        self.at.cont()?;
        self.at.talk.pause().map(drop)
    }

    /// Takes a snapshot of the guest in its [way](Self::way), which goes on where it is, and asks it before and after.
    pub fn copy(&mut self, path: &Path) -> Result<Hop, BenchError> {
        let before = self.at.talk.ask()?;
        let total = self.at.save(path, &self.way)?;
        let after = self.at.talk.ask()?;
        let account = self.at.account()?;
        std::fs::remove_file(path).map_err(BenchError::io("removing a file"))?;
        Ok(Hop { after, before, total, account })
    }

    /// Moves the guest, which is stopped, to a new process: how long it took, and the time on
    /// processors that both sides needed.
    pub fn hop_stopped(&mut self, plan: &Plan) -> Result<(Duration, Duration), BenchError> {
        let (mut to, address) = self.destination(plan)?;
        let pids = [self.at.pid(), to.pid()];
        let spent = || Ok::<_, BenchError>(cpu_time(pids[0])? + cpu_time(pids[1])?);
        let before = spent()?;
        let (total, _) = self.go(&mut to, &address, plan)?;
        let spent = spent()?.saturating_sub(before);
        self.at = to;
        Ok((total, spent))
    }

    fn go(
        &mut self,
        to: &mut Process<'a>,
        address: &str,
        plan: &Plan,
    ) -> Result<(Duration, Account), BenchError> {
        let begin = Instant::now();
        self.at.migrate(address, plan)?;
        let ended = self.at.motion_ended(self.patience)?;
        let total = begin.elapsed();
        let status = ended.as_deref().unwrap_or(UNDER_WAY);
        let info = match ended.as_deref() {
            Some(status) => self.at.ended_motion(status)?,
            None => self.at.motion()?,
        };
        if status != "completed" {
            return Err(self.went_wrong(status, &info));
        }
        // The other side has its own end: pages to clear up after, and a status to set.
        to.motion_ended(LONGEST)?;
        Ok((total, self.peer.account(info)))
    }

    /// The error for a move that did not end as it should; one that is still under way is given up.
    fn went_wrong(&mut self, status: &str, info: &Value) -> BenchError {
        if status == UNDER_WAY {
            let _ = self.at.cancel();
            let _ = self.at.motion_ended(CANCELLING);
        }
        let report = &info["x-whimbrel-report"];
        let why = [&info["error-desc"], &report["error"]["why"], &report["switch"]]
            .into_iter()
            .find_map(|text| text.as_str().filter(|text| !text.is_empty()));
        BenchError::Move {
            peer: self.peer.name(),
            status: status.to_owned(),
            why: why.unwrap_or("no reason given").to_owned(),
        }
    }
}

/// Pages a second that a guest wrote between two answers, by its own clock.
#[expect(clippy::cast_precision_loss, reason = "pages and nanoseconds are far below 2⁵²")]
pub fn pace(before: &Said, after: &Said) -> f64 {
    let pages = after.work.pages.saturating_sub(before.work.pages) as f64;
    let time = after.work.t.saturating_sub(before.work.t) as f64 / 1e9;
    if time > 0.0 { pages / time } else { 0.0 }
}

/// Nanoseconds of the guest's clock in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a gap is far below 2⁵² ns")]
pub fn millis(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

impl Hop {
    /// The guest's words, and the VMM's, as they go into the raw samples.
    pub fn detail(&self) -> Value {
        json!({ "guest": self.after.clock.to_string(), "vmm": self.account.whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_touches_follows_from_its_parameters() {
        assert_eq!(touches("touch=1M rate=0 ws=5M"), (256, 0));
        assert_eq!(touches("ws=1M rate=max"), (0, 256));
        assert_eq!(touches("nonsense"), (0, 0));
    }
}
