//! A source as a job: a coordinator on a thread of its own, whatever the other end is.

use super::outlook::look_ahead;
use super::phase::switch_log;
use super::{Command, Event, Source, SourceIo};
use crate::clock::{Moment, nanos};
use crate::deferred::Deferred;
use crate::ram::Pass;
use crate::report::{Progress, Report};
use crate::{MotionError, Observer, SourceMachine};
use links::Waker;
use state::Code;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The other end of a motion, as its coordinator sees it: what the source has done for it, and what
/// comes back.
pub(super) trait End: SourceIo + Send + 'static {
    /// What its threads have to say.
    type News: Send + 'static;

    /// What a word of its threads means to the source.
    fn hear(&mut self, news: Self::News) -> Vec<Event>;

    /// Waits until something may have come, or until then, and takes what came otherwise than as
    /// news.
    fn wait(&mut self, until: Option<Instant>) -> Vec<Event>;
}

/// How the threads of an end reach the coordinator.
pub(super) struct Mouth<N> {
    words: Sender<Word<N>>,
    waker: Waker,
}

impl<N> Clone for Mouth<N> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), waker: self.waker.clone() }
    }
}

impl<N> Mouth<N> {
    /// Tells the coordinator. The motion may have ended meanwhile; then nobody hears it.
    pub(super) fn say(&self, news: N) {
        let _ = self.words.send(Word::News(news));
        self.waker.wake();
    }

    /// What wakes the coordinator.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// What every end is given.
pub(super) struct Setting<N> {
    pub(super) mouth: Mouth<N>,
    pub(super) epoch: Instant,
    /// Somebody wants the motion to end, and the coordinator does not know yet.
    pub(super) cancelled: Arc<AtomicBool>,
}

impl<N: Send + 'static> Setting<N> {
    /// Switches the log of writes to a machine's RAM on or off, on a thread of its own; what became of it is news.
    /// Where no thread can be had it is done here.
    pub(super) fn switch_log(
        &self,
        machine: &Arc<dyn SourceMachine>,
        on: bool,
        news: impl FnOnce(Event) -> N + Send + 'static,
    ) -> Option<Result<(), MotionError>> {
        let (mouth, moved) = (self.mouth.clone(), machine.clone());
        let switch = move || mouth.say(news(Event::Logged(switch_log(&*moved, on))));
        match thread::Builder::new().name("move-log".to_owned()).spawn(switch) {
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "starting a thread");
                Some(switch_log(&**machine, on))
            }
        }
    }
}

enum Word<N> {
    News(N),
    Command(Command, Reply),
}

/// Where it is said what became of a command.
type Reply = Sender<Result<(), MotionError>>;

/// A motion under way, at its source. It goes on when the value is dropped.
pub struct SourceJob {
    command: Box<dyn Fn(Command, Reply) -> bool + Send + Sync>,
    cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
    epoch: Instant,
}

#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    finished: Condvar,
}

#[derive(Default)]
struct View {
    progress: Progress,
    pass: Option<Arc<Pass>>,
    pass_begun: Moment,
    report: Option<Report>,
    /// The observer has heard of it.
    told: bool,
    over: bool,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceJob {
    /// Starts a motion of what `source` makes of an observer, to the end that `end` makes.
    pub(super) fn begin<E: End>(
        observer: Arc<dyn Observer>,
        source: impl FnOnce(Arc<dyn Observer>) -> Source,
        end: impl FnOnce(Setting<E::News>) -> E,
    ) -> Result<Self, MotionError> {
        let failed = |what: &'static str| {
            move |e: std::io::Error| MotionError::new(Code::HostIo, format!("{what}: {e}"))
        };
        let waker = Waker::new().map_err(failed("starting a motion"))?;
        let (words, inbox) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let cancelled = Arc::new(AtomicBool::new(false));
        let epoch = Instant::now();
        let mouth = Mouth { words: words.clone(), waker: waker.clone() };
        let observer = Arc::new(Deferred::new(observer));
        let coordinator = Coordinator {
            source: source(observer.clone()),
            end: end(Setting { mouth, epoch, cancelled: cancelled.clone() }),
            inbox,
            shared: shared.clone(),
            cancelled: cancelled.clone(),
            observer,
            epoch,
        };
        thread::Builder::new()
            .name("move-source".to_owned())
            .spawn(move || coordinator.run())
            .map_err(failed("starting a motion's thread"))?;
        let command = Box::new(move |command, reply| {
            let taken = words.send(Word::Command(command, reply)).is_ok();
            waker.wake();
            taken
        });
        Ok(Self { command, cancelled, shared, epoch })
    }

    /// Does what somebody wants of the motion.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn command(&self, command: Command) -> Result<(), MotionError> {
        let over = || MotionError::new(Code::InvalidState, "the motion has ended already");
        if command == Command::Cancel {
            // The coordinator may be sending something long to a destination that hardly takes it.
            self.cancelled.store(true, Ordering::Release);
        }
        let (reply, answer) = mpsc::channel();
        if !(self.command)(command, reply) {
            return Err(over());
        }
        answer.recv().map_err(|_| over())?
    }

    /// Cancels the motion; the guest goes on at the source.
    ///
    /// # Errors
    /// `too-late` after COMMIT.
    pub fn cancel(&self) -> Result<(), MotionError> {
        self.command(Command::Cancel)
    }

    /// Goes on after `pre-switchover`.
    ///
    /// # Errors
    /// When the motion is not waiting for it.
    pub fn proceed(&self) -> Result<(), MotionError> {
        self.command(Command::Proceed)
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let view = self.shared.view();
        let mut progress = view.progress.clone();
        if let Some(pass) = &view.pass {
            let totals = pass.totals();
            // Zero until the pass was added to the account of the motion.
            let under_way = progress.pass_done == 0 && progress.pass == pass.number();
            progress.pass_done = totals.seen;
            if view.report.is_none() && under_way {
                progress.bytes += totals.bytes;
                let now = Moment(nanos(self.epoch.elapsed()));
                progress.elapsed_ns = progress.elapsed_ns.max(now.0);
                look_ahead(&mut progress, totals, now.since(view.pass_begun));
            }
        }
        progress
    }

    /// The report, once the motion has ended.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.shared.view().report.clone()
    }

    /// Whether even the destination knows how it ended, and nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.view().over
    }

    /// Waits for the end, but no longer than this.
    #[must_use]
    pub fn wait_within(&self, limit: Duration) -> Option<Report> {
        let on = |view: &mut View| view.report.is_none() || !view.told;
        let waited = self.shared.finished.wait_timeout_while(self.shared.view(), limit, on);
        let (view, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { None } else { view.report.clone() }
    }

    /// Waits for the end.
    #[must_use]
    pub fn wait(&self) -> Report {
        let mut view = self.shared.view();
        loop {
            if let (Some(report), true) = (&view.report, view.told) {
                return report.clone();
            }
            view = self.shared.finished.wait(view).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Coordinator<E: End> {
    source: Source,
    end: E,
    inbox: Receiver<Word<E::News>>,
    shared: Arc<Shared>,
    cancelled: Arc<AtomicBool>,
    observer: Arc<Deferred>,
    epoch: Instant,
}

impl<E: End> Coordinator<E> {
    fn run(mut self) {
        self.source.begin(&mut self.end);
        while !self.source.is_over() {
            let untold = self.publish();
            let deadline = self.source.deadline().map(|at| self.epoch + Duration::from_nanos(at.0));
            for event in self.end.wait(deadline.into_iter().chain(untold).min()) {
                self.source.handle(event, &mut self.end);
            }
            while let Ok(word) = self.inbox.try_recv() {
                self.take(word);
            }
            self.source.handle(Event::Tick, &mut self.end);
        }
        self.publish();
        self.shared.view().over = true;
    }

    fn take(&mut self, word: Word<E::News>) {
        match word {
            Word::News(news) => {
                for event in self.end.hear(news) {
                    self.source.handle(event, &mut self.end);
                }
            }
            Word::Command(command, reply) => {
                if command == Command::Cancel {
                    self.cancelled.store(false, Ordering::Release);
                }
                let result = self.source.command(command, &mut self.end);
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
        }
    }

    /// Shows where it is, and tells what happened: all of it, or what is left at the moment that is
    /// returned.
    fn publish(&mut self) -> Option<Instant> {
        let mut view = self.shared.view();
        view.progress.clone_from(self.source.progress());
        view.pass = self.source.pass().cloned();
        view.pass_begun = self.source.pass_begun();
        let status = |report: &Report| report.status;
        // A guest that an operator gave away may come back: then it has ended otherwise.
        let ends = self.source.has_ended()
            && view.report.as_ref().map(status) != Some(status(self.source.report()));
        if ends {
            view.report = Some(self.source.report().clone());
        }
        drop(view);
        let untold = self.observer.tell(self.source.awaits_word());
        if ends {
            self.shared.view().told = true;
            self.shared.finished.notify_all();
        }
        untold
    }
}
