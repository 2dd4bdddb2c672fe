//! A guest on its way to a file: the engine's `Source` and `FileDesk`, and in place of threads, steps.

use super::disk::Hands;
use crate::env::{MICROSECOND, MILLISECOND, SECOND};
use crate::life::Life;
use crate::machine::SimMachine;
use crate::rng::Rng;
use crate::watcher::Watcher;
use motion::clock::{Moment, nanos};
use motion::ram::{Pass, PassTotals};
use motion::source::{
    Command, Errand, Event, FileDesk, FileLane, Outcome, Phase, Source, SourceIo, Todo,
};
use motion::{MotionError, handover};
use snapshot::watched_by;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One page that takes longer to write than this, in nanoseconds, will not come back (as in
/// `motion/src/source/file/patience.rs`).
const LANE_LIMIT: u64 = 30 * SECOND;

pub struct SaveSide {
    pub source: Source,
    pub machine: Arc<SimMachine>,
    pub watcher: Arc<Watcher>,
    pub office: Office,
}

/// What works at the file.
pub struct Office {
    pub now: u64,
    pub rng: Rng,
    life: Arc<Life>,
    hands: Rc<Hands>,
    desk: FileDesk,
    /// One after the other: each holds the file for itself.
    errands: Vec<Running>,
    lanes: Vec<Lane>,
    /// Of a motion that no longer wants them: they write on.
    strays: Vec<Lane>,
    inbox: Vec<(u64, News)>,
    /// What is done next takes this long, in nanoseconds.
    pub hangs: Option<u64>,
    machine: Arc<SimMachine>,
}

struct Running {
    errand: Errand,
    /// When it is done.
    at: u64,
    /// When that is too late, and whether somebody has said so.
    limit: u64,
    is_late: bool,
    began: u64,
}

struct Lane {
    lane: FileLane,
    pass: Option<Arc<Pass>>,
    at: u64,
    /// When it takes too long, while it writes, and whether somebody has said so.
    limit: u64,
    is_late: bool,
}

enum News {
    Event(Box<Event>),
    Done(Box<Outcome>),
    Sent,
}

impl SaveSide {
    pub fn new(
        source: Source,
        machine: Arc<SimMachine>,
        watcher: Arc<Watcher>,
        desk: FileDesk,
        hands: Rc<Hands>,
        rng: Rng,
        now: u64,
    ) -> Self {
        let office = Office {
            now,
            rng,
            life: hands.life.clone(),
            hands,
            desk,
            errands: Vec::new(),
            lanes: Vec::new(),
            strays: Vec::new(),
            inbox: Vec::new(),
            hangs: None,
            machine: machine.clone(),
        };
        Self { source, machine, watcher, office }
    }

    pub fn begin(&mut self) {
        self.source.begin(&mut self.office);
    }

    fn handle(&mut self, event: Event) {
        if !self.source.is_over() {
            self.source.handle(event, &mut self.office);
        }
    }

    pub fn command(&mut self, command: Command) -> Result<(), MotionError> {
        if self.source.is_over() {
            let why = "the motion has ended already";
            return Err(MotionError::new(state::Code::InvalidState, why));
        }
        self.source.command(command, &mut self.office)
    }

    /// Whether it could still run the guest by itself: it has the permit in its hands.
    pub fn offers(&self) -> bool {
        use Phase::*;
        let given = matches!(self.source.phase(), AwaitingRunning | Undecided | Settling | Ended);
        self.machine.is_surrendered() && !given
    }

    /// Whether the guest may be in the file, and nobody knows.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.source.phase(), Phase::AwaitingRunning | Phase::Undecided)
    }

    /// Whether nothing is left to do, for anybody.
    pub fn is_idle(&self) -> bool {
        let office = &self.office;
        self.source.is_over()
            && office.errands.is_empty()
            && office.strays.is_empty()
            && office.inbox.is_empty()
    }

    /// When something is to be done.
    pub fn deadline(&self) -> Option<u64> {
        let office = &self.office;
        let own = self.source.deadline().filter(|_| !self.source.is_over()).map(|at| at.0);
        let first = [own, office.errands.first().map(|running| running.at), office.hung_at()];
        let lanes = office.lanes.iter().filter(|lane| lane.pass.is_some()).map(|lane| lane.at);
        let strays = office.strays.iter().map(|lane| lane.at);
        let inbox = office.inbox.iter().map(|(at, _)| *at);
        first.into_iter().flatten().chain(lanes).chain(strays).chain(inbox).min()
    }

    /// Does one thing that is due.
    pub fn wake(&mut self, now: u64) {
        self.office.now = now;
        if let Some(at) = self.office.due_news() {
            let (_, news) = self.office.inbox.remove(at);
            let events = match news {
                News::Event(event) => vec![*event],
                News::Done(outcome) => self.office.desk.hear(*outcome),
                News::Sent => self.office.desk.end_pass(),
            };
            events.into_iter().for_each(|event| self.handle(event));
        } else if self.office.hung_at().is_some_and(|at| at <= now) {
            let event = self.office.notice_hang();
            event.into_iter().for_each(|event| self.handle(event));
        } else if self.office.errands.first().is_some_and(|running| running.at <= now) {
            self.office.run_errand();
        } else if let Some(at) = self.office.strays.iter().position(|lane| lane.at <= now) {
            let lane = self.office.strays.remove(at);
            self.office.finish_stray(lane);
        } else if let Some(at) = self.office.due_lane() {
            self.office.step(at);
        } else {
            self.handle(Event::Tick);
        }
    }

    /// The disk is back: what hung goes on.
    pub fn disk_is_back(&mut self, now: u64) {
        self.office.hangs = None;
        let soon = now + MILLISECOND;
        self.office.errands.iter_mut().for_each(|running| running.at = running.at.min(soon));
        let office = &mut self.office;
        office.lanes.iter_mut().chain(&mut office.strays).for_each(|l| l.at = l.at.min(soon));
    }
}

impl Office {
    fn post(&mut self, news: News) {
        // Threads that speak are not heard in the order in which they did what they speak of.
        let at = self.now + self.rng.below(100 * MICROSECOND);
        self.inbox.push((at, news));
    }

    fn due_news(&self) -> Option<usize> {
        let due = self.inbox.iter().enumerate().filter(|(_, (at, _))| *at <= self.now);
        due.min_by_key(|(_, (at, _))| *at).map(|(index, _)| index)
    }

    fn due_lane(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.pass.is_some() && lane.at <= self.now)
    }

    fn see_to(&mut self, todo: Todo) {
        match todo {
            Todo::Errand(errand) => {
                let takes = self.hangs.take().unwrap_or_else(|| self.rng.below(5 * MILLISECOND));
                let began = self.now + self.life.ahead();
                let limit = began + nanos(errand.limit());
                let before = self.errands.last().map_or(0, |running| running.at);
                let at = before.max(began) + takes;
                self.errands.push(Running { errand: *errand, at, limit, is_late: false, began });
            }
            Todo::Event(event) => self.post(News::Event(Box::new(event))),
            Todo::Nothing => {}
        }
    }

    /// When something that is being done takes too long, which nobody has said yet.
    fn hung_at(&self) -> Option<u64> {
        let errands = self.errands.iter().filter(|r| !r.is_late && r.limit < r.at).map(|r| r.limit);
        let lanes = self.lanes.iter().filter(|l| !l.is_late && l.limit < l.at).map(|l| l.limit);
        errands.chain(lanes).min()
    }

    /// When something that is still being done has begun to take too long.
    pub fn hangs_since(&self) -> Option<u64> {
        let errands = self.errands.iter().filter(|r| r.limit < r.at).map(|r| r.limit);
        let lanes = self.lanes.iter().filter(|l| l.limit < l.at).map(|l| l.limit);
        errands.chain(lanes).min()
    }

    fn notice_hang(&mut self) -> Option<Event> {
        let now = self.now;
        let errand =
            self.errands.iter_mut().find(|r| !r.is_late && r.limit < r.at && r.limit <= now);
        let doing = match errand {
            Some(running) => {
                running.is_late = true;
                running.errand.doing()
            }
            None => {
                let late = |l: &&mut Lane| !l.is_late && l.limit < l.at && l.limit <= now;
                let lane = self.lanes.iter_mut().find(late);
                lane.into_iter().for_each(|lane| lane.is_late = true);
                "writing a page"
            }
        };
        self.desk.hangs(doing)
    }

    fn run_errand(&mut self) {
        let Running { errand, .. } = self.errands.remove(0);
        let hands = self.hands.clone();
        let outcome = watched_by(hands, || errand.run());
        if !self.life.is_dead() {
            self.post(News::Done(Box::new(outcome)));
        }
        // Whoever waited for the file has it now.
        if let Some(next) = self.errands.first_mut() {
            next.at = next.at.max(self.now).max(next.began);
        }
    }

    /// A lane writes one chunk, or what it has left.
    fn step(&mut self, index: usize) {
        let now = self.now;
        if let Some(hangs) = self.hangs.take() {
            let lane = &mut self.lanes[index];
            (lane.at, lane.limit, lane.is_late) = (now + hangs, now + LANE_LIMIT, false);
            return;
        }
        let (machine, hands) = (self.machine.clone(), self.hands.clone());
        let lane = &mut self.lanes[index];
        lane.limit = u64::MAX;
        let Some(pass) = lane.pass.clone() else { return };
        let step = watched_by(hands, || lane.step(&machine, &pass));
        lane.at = now + 20 * MICROSECOND + self.rng.below(100 * MICROSECOND);
        match step {
            Ok(false) => return,
            Ok(true) => lane.pass = None,
            Err(error) => {
                lane.pass = None;
                if !pass.is_stopped() && !self.life.is_dead() {
                    pass.stop();
                    self.post(News::Event(Box::new(Event::Lost(error))));
                }
                return;
            }
        }
        let over = self.lanes.iter().all(|lane| lane.pass.is_none());
        if over && !pass.is_stopped() && !self.life.is_dead() {
            self.post(News::Sent);
        }
    }

    /// What a thread does that hung, when it goes on and nobody waits for it.
    fn finish_stray(&mut self, mut lane: Lane) {
        let (machine, hands) = (self.machine.clone(), self.hands.clone());
        if let Some(pass) = lane.pass.take() {
            // Nobody hears how it went.
            let _ = watched_by(hands, || lane.step(&machine, &pass));
        }
    }
}

impl Lane {
    /// True when nothing was left of the pass.
    fn step(&mut self, machine: &SimMachine, pass: &Pass) -> Result<bool, MotionError> {
        let Some(chunk) = pass.claim() else {
            self.lane.flush()?;
            return Ok(true);
        };
        let mut pace = |_| {
            machine.interlude();
            motion::ram::PIECE_PAGES
        };
        let totals: PassTotals = self.lane.write(machine, pass, chunk, &mut pace)?;
        pass.count(totals);
        Ok(false)
    }
}

impl SourceIo for Office {
    fn now(&self) -> Moment {
        Moment(self.now + self.life.ahead())
    }

    fn dial(&mut self) {
        let welcomed = Event::Welcomed { clock_ahead: 0, round_trip: Duration::ZERO };
        self.post(News::Event(Box::new(welcomed)));
    }

    fn join(&mut self, count: u16) {
        let (mut lanes, mut error) = (Vec::new(), None);
        for _ in 0..count {
            match self.desk.lane(Instant::now()) {
                Ok(lane) => {
                    lanes.push(Lane { lane, pass: None, at: 0, limit: u64::MAX, is_late: false });
                }
                Err(e) => error = Some(e),
            }
        }
        self.lanes = lanes;
        let event = error.map_or(Event::Joined, Event::Lost);
        self.post(News::Event(Box::new(event)));
    }

    fn send(&mut self, message: &wire::Message) -> Result<(), MotionError> {
        if self.life.acts() {
            let todo = self.desk.send(message);
            self.see_to(todo);
        }
        Ok(())
    }

    fn send_by(&mut self, _: Option<Moment>) {}

    fn most_description(&self) -> u64 {
        self.desk.most_description()
    }

    fn inline_pages(&self) -> u64 {
        0
    }

    fn send_pass(&mut self, pass: &Pass) -> Result<(), MotionError> {
        if pass.set().is_empty() {
            return Ok(());
        }
        Err(MotionError::new(state::Code::Internal, "a pass to a file is its workers' to write"))
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        self.desk.begin_pass(pass);
        let now = self.now + self.life.ahead();
        for lane in &mut self.lanes {
            lane.pass = Some(pass.clone());
            lane.at = now + self.rng.below(100 * MICROSECOND);
        }
    }

    fn ask(&mut self, message: handover::Message) {
        if self.life.acts() {
            let todo = self.desk.ask(message);
            self.see_to(todo);
        }
    }

    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}

    fn stop_workers(&mut self) {
        let now = self.now;
        let hung = |lane: &Lane| lane.pass.is_some() && lane.at > now + SECOND;
        let lanes = std::mem::take(&mut self.lanes);
        self.strays.extend(lanes.into_iter().filter(hung));
    }

    fn hang_up(&mut self) {
        self.stop_workers();
        let todo = self.desk.hang_up();
        self.see_to(todo);
    }
}
