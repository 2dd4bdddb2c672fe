//! A guest on its way to a file: the engine's `Source` and `FileDesk`, and in place of threads, steps.

use super::disk::Hands;
use crate::env::{MICROSECOND, MILLISECOND, SECOND};
use crate::gate::Gatekeeper;
use crate::life::Life;
use crate::machine::SimMachine;
use crate::rng::Rng;
use crate::watcher::Watcher;
use memory::PageSet;
use motion::clock::{Moment, nanos};
use motion::guard::{Guard, GuardOptions, Waiting};
use motion::ram::{Pass, PassTotals};
use motion::source::{
    BeforeWriteLane, Command, Errand, Event, FileDesk, FileLane, Outcome, Phase, Source, SourceIo,
    Todo,
};
use motion::{MotionError, handover};
use snapshot::watched_by;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One page that takes longer to write than this, in nanoseconds, will not come back (as in
/// `motion/src/source/file/patience.rs`).
const LANE_LIMIT: u64 = 30 * SECOND;
/// Bytes of a copy for a writer that waits.
const COPY: u64 = 64 << 10;

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
    keeping: Option<Keeping>,
}

/// RAM that is to be kept as it was at the beginning.
struct Keeping {
    options: GuardOptions,
    /// Of a clock that stands still: its times are this and the world's.
    epoch: Instant,
    guard: Option<Arc<Guard>>,
    /// Why the copy was given up, which nobody has heard yet.
    failures: Arc<Mutex<Vec<MotionError>>>,
    /// Those who wait to write, of whom somebody was told.
    serving: Vec<Serving>,
}

struct Serving {
    page: u64,
    at: u64,
    waiting: Option<Waiting>,
}

impl Keeping {
    fn new(patience: u64, buffers: u64) -> Self {
        let patience = Duration::from_nanos(patience);
        let options = GuardOptions { patience, buffered: buffers * COPY, threads: 1 };
        let failures = Arc::default();
        Self { options, epoch: Instant::now(), guard: None, failures, serving: Vec::new() }
    }

    fn start(&mut self, machine: &Arc<SimMachine>) -> Result<Arc<Guard>, MotionError> {
        let failures = self.failures.clone();
        let fail =
            move |error| failures.lock().expect("nobody panics while holding it").push(error);
        let guard = Guard::over(Gatekeeper::of(machine), self.options, Box::new(fail))?;
        self.guard = Some(guard.clone());
        Ok(guard)
    }

    /// Whoever serves one that waits.
    fn serve(&mut self, at: usize, now: u64) {
        let Some(guard) = &self.guard else { return };
        let Serving { page, waiting, at: next } = &mut self.serving[at];
        let moment = self.epoch + Duration::from_nanos(now);
        if guard.try_serve(*page, waiting, moment) {
            self.serving.swap_remove(at);
        } else {
            *next = now + 20 * MILLISECOND;
        }
    }
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
    lane: Way,
    pass: Option<Arc<Pass>>,
    at: u64,
    /// When it takes too long, while it writes, and whether somebody has said so.
    limit: u64,
    is_late: bool,
}

/// Where a lane writes what comes from.
enum Way {
    Plain(FileLane),
    /// RAM as it was at the beginning.
    Kept(Box<BeforeWriteLane>),
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
        (mut rng, now): (Rng, u64),
        keeps: bool,
    ) -> Self {
        let keeping = keeps.then(|| {
            let patience = rng.magnitude(100 * MILLISECOND, 5 * SECOND);
            Keeping::new(patience, rng.pick(&[2, 3, 8, 1024]))
        });
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
            keeping,
        };
        Self { source, machine, watcher, office }
    }

    pub fn begin(&mut self) {
        let hands = self.office.hands.clone();
        watched_by(hands, || self.source.begin(&mut self.office));
    }

    fn handle(&mut self, event: Event) {
        if !self.source.is_over() {
            // A guest that goes on raises the generation of its memory file.
            let hands = self.office.hands.clone();
            watched_by(hands, || self.source.handle(event, &mut self.office));
        }
    }

    pub fn command(&mut self, command: Command) -> Result<(), MotionError> {
        if self.source.is_over() {
            let why = "the motion has ended already";
            return Err(MotionError::new(state::Code::InvalidState, why));
        }
        let hands = self.office.hands.clone();
        watched_by(hands, || self.source.command(command, &mut self.office))
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
        let waiting = office.waiting_at();
        first.into_iter().flatten().chain(lanes).chain(strays).chain(inbox).chain(waiting).min()
    }

    /// Does one thing that is due.
    pub fn wake(&mut self, now: u64) {
        self.office.now = now;
        self.office.notice_writers();
        if let Some(at) = self.office.due_news() {
            let (_, news) = self.office.inbox.remove(at);
            let events = match news {
                News::Event(event) => vec![*event],
                News::Done(outcome) => self.office.desk.hear(*outcome),
                News::Sent => self.office.pass_is_sent(),
            };
            events.into_iter().for_each(|event| self.handle(event));
        } else if self.office.hung_at().is_some_and(|at| at <= now) {
            let event = self.office.notice_hang();
            event.into_iter().for_each(|event| self.handle(event));
        } else if let Some(at) = self.office.due_writer() {
            if let Some(keeping) = &mut self.office.keeping {
                keeping.serve(at, now);
            }
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

    /// When somebody does something about writers that wait.
    fn waiting_at(&self) -> Option<u64> {
        let keeping = self.keeping.as_ref()?;
        keeping.guard.as_ref()?;
        let is_news = self.machine.gate.has_faults()
            || !keeping.failures.lock().expect("nobody panics while holding it").is_empty();
        let served = keeping.serving.iter().map(|serving| serving.at).min();
        if is_news { Some(self.now) } else { served }
    }

    /// Those who wait are found out about, and why a copy was given up.
    fn notice_writers(&mut self) {
        let Some(keeping) = &mut self.keeping else { return };
        if keeping.guard.is_none() {
            return;
        }
        while let Some(page) = self.machine.gate.take_fault() {
            let at = self.now + self.rng.below(50 * MICROSECOND);
            keeping.serving.push(Serving { page, at, waiting: None });
        }
        let failures =
            std::mem::take(&mut *keeping.failures.lock().expect("nobody panics while holding it"));
        for error in failures {
            // A thread that says so may come to it late.
            let at = self.now + self.rng.magnitude(MICROSECOND, 4 * MILLISECOND);
            self.inbox.push((at, News::Event(Box::new(Event::Lost(error)))));
        }
    }

    fn due_writer(&self) -> Option<usize> {
        let keeping = self.keeping.as_ref()?;
        keeping.serving.iter().position(|serving| serving.at <= self.now)
    }

    /// All is sent that there is to send of the pass.
    fn pass_is_sent(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(guard) = self.keeping.as_ref().and_then(|keeping| keeping.guard.as_ref()) {
            // Else it was given up meanwhile, and why is other news.
            let Some(report) = guard.end() else { return events };
            events.push(Event::Copied(Box::new(report)));
        }
        events.extend(self.desk.end_pass());
        events
    }

    /// Nobody waits to write RAM any more.
    fn lift(&self) {
        if let Some(guard) = self.keeping.as_ref().and_then(|keeping| keeping.guard.as_ref()) {
            guard.lift();
        }
    }

    /// Whether RAM is kept as it was at the beginning.
    pub fn keeps(&self) -> bool {
        self.keeping.is_some()
    }

    /// Until when somebody who waits to write may wait: longer than for any disk.
    pub fn writers_wait_until(&self) -> Option<u64> {
        let keeping = self.keeping.as_ref()?;
        let patience = nanos(keeping.options.patience);
        // Whoever gets a buffer that somebody else wanted, too, waits for no disk.
        self.machine.gate.waits_since().map(|since| since + 3 * patience + SECOND)
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
        let keeping = &mut self.keeping;
        let rng = &mut self.rng;
        let mut pace = |_| {
            machine.interlude();
            let most = rng.pick(&[16, 64, motion::ram::PIECE_PAGES]);
            let Some(keeping) = keeping.as_mut().filter(|_| rng.chance(50)) else { return most };
            if let Some(page) = machine.gate.take_fault() {
                keeping.serving.push(Serving { page, at: now, waiting: None });
                keeping.serve(keeping.serving.len() - 1, now);
            }
            most
        };
        let step = watched_by(hands, || lane.step(&machine, &pass, &mut pace));
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
            let mut pace = |_| motion::ram::PIECE_PAGES;
            let _ = watched_by(hands, || lane.step(&machine, &pass, &mut pace));
        }
    }
}

impl Lane {
    /// True when nothing was left of the pass.
    fn step(
        &mut self,
        machine: &SimMachine,
        pass: &Pass,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<bool, MotionError> {
        let chunk = pass.claim();
        let totals: PassTotals = match (&mut self.lane, chunk) {
            (Way::Plain(lane), Some(chunk)) => lane.write(machine, pass, chunk, pace)?,
            (Way::Kept(lane), Some(chunk)) => lane.write(machine, pass, chunk, pace)?,
            (Way::Plain(lane), None) => {
                lane.flush()?;
                return Ok(true);
            }
            (Way::Kept(_), None) if pass.is_stopped() => return Ok(true),
            (Way::Kept(lane), None) => return Ok(!lane.write_last(pass)?),
        };
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
        let guard = match self.keeping.as_mut().map(|keeping| keeping.start(&self.machine)) {
            None => None,
            Some(Ok(guard)) => Some(guard),
            Some(Err(error)) => return self.post(News::Event(Box::new(Event::Lost(error)))),
        };
        for _ in 0..count {
            match self.desk.lane(Instant::now()) {
                Ok(lane) => {
                    let lane = match &guard {
                        None => Way::Plain(lane),
                        Some(guard) => {
                            Way::Kept(Box::new(BeforeWriteLane::new(lane, guard.clone())))
                        }
                    };
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

    fn keep_ram(&mut self, by: Option<Moment>) -> Result<PageSet, MotionError> {
        let guard = self.keeping.as_ref().and_then(|keeping| keeping.guard.as_ref());
        let none = || MotionError::new(state::Code::Internal, "nothing keeps RAM");
        let (begun, life) = (self.now, self.life.clone());
        guard.ok_or_else(none)?.keep(by, &|| Moment(begun + life.ahead()))
    }

    fn start_pass(&mut self, pass: &Arc<Pass>) {
        self.desk.begin_pass(pass);
        let now = self.now + self.life.ahead();
        for lane in &mut self.lanes {
            lane.pass = Some(pass.clone());
            lane.at = now + self.rng.below(100 * MICROSECOND);
        }
    }

    fn tells_for(&self) -> Option<Duration> {
        Some(FileDesk::SETTLING)
    }

    fn ask(&mut self, message: handover::Message) {
        if self.life.acts() {
            let todo = self.desk.ask(message);
            self.see_to(todo);
        }
    }

    fn set_bandwidth(&mut self, _: Option<NonZeroU64>) {}

    fn stop_workers(&mut self) {
        self.lift();
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
