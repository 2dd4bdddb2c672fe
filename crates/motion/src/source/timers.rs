//! What a source does when time passes.

use super::{Phase, SETTLING, Source, SourceIo};
use crate::again::pause_after;
use crate::clock::Moment;
use crate::handover::{Input, Timer};
use crate::rules::{Rule, keeps};
use crate::{Blackout, MotionError, TimeoutAction};
use state::Code;
use std::time::Duration;
use wire::Message;

/// A destination may need this long to build a machine: huge pages are cleared, RAM is reserved.
const BUILDING: Duration = Duration::from_secs(60);

/// The moments at which something is due.
#[derive(Debug)]
pub(super) struct Timers {
    stall: Duration,
    heard: Moment,
    ping_due: Moment,
    pings: u64,
    ping_sent: Moment,
    answer_by: Option<Moment>,
    moved: Moment,
    received: u64,
    sent: u64,
    pub(super) rest_until: Option<Moment>,
    pub(super) ready_by: Option<Moment>,
    /// When a destination that shares RAM is to have entered the guest.
    pub(super) enter_by: Option<Moment>,
    reply_by: Option<Moment>,
    retry_at: Option<Moment>,
    /// Since when a destination is told who has the guest, and has not heard it.
    settling: Option<Moment>,
    pub(super) settle_by: Option<Moment>,
}

impl Timers {
    pub(super) fn new(stall: Duration) -> Self {
        let never = Moment::default();
        Self {
            stall,
            heard: never,
            ping_due: never,
            pings: 0,
            ping_sent: never,
            answer_by: None,
            moved: never,
            received: 0,
            sent: 0,
            rest_until: None,
            ready_by: None,
            enter_by: None,
            reply_by: None,
            retry_at: None,
            settling: None,
            settle_by: None,
        }
    }

    /// Silence counts from now on, and for so long. The destination is asked soon enough to answer
    /// within a limit that is shorter than the last one.
    pub(super) fn set_stall(&mut self, stall: Duration, now: Moment) {
        self.stall = stall;
        self.ping_due = self.ping_due.min(now.after(stall / 5));
        self.heard = self.heard.max(now);
        self.moved = self.moved.max(now);
    }

    /// The destination has been asked something that may take it long.
    pub(super) fn wait_for_answer(&mut self, now: Moment) {
        self.answer_by = Some(now.after(BUILDING.max(self.stall)));
    }

    /// Something came from the destination.
    pub(super) fn heard(&mut self, now: Moment) {
        self.heard = now;
    }

    /// The destination has so many bytes of pages.
    pub(super) fn received(&mut self, bytes: u64, now: Moment) {
        if bytes > self.received {
            self.received = bytes;
            self.moved = now;
        }
    }

    /// The motion got on.
    pub(super) fn progress(&mut self, now: Moment) {
        self.moved = now;
    }

    /// For so long this side did something else than listen.
    pub(super) fn was_busy(&mut self, time: Duration) {
        let time = if keeps(Rule::BusyIsNoSilence) { time } else { Duration::ZERO };
        self.heard = self.heard.after(time);
        self.moved = self.moved.after(time);
    }

    /// The answer to a ping: what it took, if it is the last one's.
    pub(super) fn pong(&self, number: u64, now: Moment) -> Option<Duration> {
        (number == self.pings).then(|| now.since(self.ping_sent))
    }

    /// Sets a timer of the handover.
    pub(super) fn set(&mut self, timer: Timer, now: Moment) {
        match timer {
            Timer::Reply => self.reply_by = Some(now.after(self.stall)),
            // Who is undecided asks often for as long as it takes: its guest stands still.
            Timer::Retry => {
                let so_far = self.settling.map_or(Duration::ZERO, |since| now.since(since));
                self.retry_at = Some(now.after(pause_after(so_far)));
            }
            // Set by the promise, not by the handover; and only a destination holds.
            Timer::Ready | Timer::Hold => {}
        }
    }

    /// Clears a timer of the handover.
    pub(super) fn clear(&mut self, timer: Timer) {
        match timer {
            Timer::Ready => self.ready_by = None,
            Timer::Reply => self.reply_by = None,
            Timer::Retry => self.retry_at = None,
            Timer::Hold => {}
        }
    }

    /// Whether READY should have come by now.
    pub(super) fn ready_is_late(&self, now: Moment) -> bool {
        self.ready_by.is_some_and(|at| at <= now)
    }

    /// Begins to tell a destination who has the guest: until it has heard it, or for so long.
    pub(super) fn settle(&mut self, now: Moment, limit: Option<Duration>) {
        let limit = if keeps(Rule::TellingGoesOn) { limit } else { Some(SETTLING) };
        self.settling = Some(now);
        self.settle_by = limit.map(|limit| now.after(limit));
    }
}

fn due(timer: &mut Option<Moment>, now: Moment) -> bool {
    let due = timer.is_some_and(|at| at <= now);
    if due {
        *timer = None;
    }
    due
}

impl Source {
    /// When [`super::Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        if self.is_over() {
            return None;
        }
        let t = &self.timers;
        let waits_for_progress = self.must_progress().then(|| t.moved.after(t.stall));
        let timeout = self.options.timeout.filter(|_| self.may_time_out());
        [
            self.has_lost_link().then_some(Moment::default()),
            self.linked.then_some(t.ping_due),
            (self.linked && self.must_hear()).then(|| t.heard.after(t.stall)),
            t.answer_by.filter(|_| self.waits_for_answer()),
            waits_for_progress,
            t.rest_until,
            t.ready_by,
            t.enter_by,
            t.reply_by,
            t.retry_at,
            t.settle_by,
            timeout.map(|timeout| self.begun.after(timeout)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn waits_for_answer(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Checking | Phase::Joining)
    }

    fn must_hear(&self) -> bool {
        !self.waits_for_answer()
            && !matches!(self.phase, Phase::Disarming | Phase::Settling | Phase::Ended)
    }

    /// A message could not be sent, and whoever reads has not noticed yet. After COMMIT there are
    /// other ways to say and hear what is left.
    fn has_lost_link(&self) -> bool {
        !self.linked
            && self.must_hear()
            && !matches!(self.phase, Phase::AwaitingRunning | Phase::Undecided)
    }

    fn must_progress(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::LastPass | Phase::AwaitingReady)
    }

    fn may_time_out(&self) -> bool {
        matches!(self.phase, Phase::Passing | Phase::Draining | Phase::Resting)
            && keeps(Rule::TimeIsUp)
    }

    pub(super) fn look_at_timers(&mut self, io: &mut dyn SourceIo) {
        let now = io.now();
        self.progress.elapsed_ns = crate::clock::nanos(now.since(self.begun));
        self.note_progress(now);
        if self.linked && self.timers.ping_due <= now {
            self.ping(now, io);
        }
        if let Some(error) = self.silence(now) {
            self.lost(io, error);
        }
        if due(&mut self.timers.ready_by, now) {
            self.ready_is_late(io);
        }
        if due(&mut self.timers.enter_by, now) {
            self.entering_is_late(io);
        }
        for (timer, is_due) in [
            (Timer::Reply, due(&mut self.timers.reply_by, now)),
            (Timer::Retry, due(&mut self.timers.retry_at, now)),
        ] {
            if is_due {
                // A timer that runs out cannot be denied; there is nobody to tell if it were.
                let _ = self.drive(Input::Expired(timer), io);
            }
        }
        if self.phase == Phase::Resting && due(&mut self.timers.rest_until, now) {
            self.try_to(io, Self::next_pass);
        }
        if self.may_time_out()
            && self.options.timeout.is_some_and(|timeout| now.since(self.begun) >= timeout)
        {
            self.timed_out(io);
        }
        if due(&mut self.timers.settle_by, now) {
            self.end(io);
        }
    }

    /// Asks for a sign of life, and how long it takes to come.
    pub(super) fn ping(&mut self, now: Moment, io: &mut dyn SourceIo) {
        self.timers.pings += 1;
        self.timers.ping_sent = now;
        self.timers.ping_due = now.after(self.timers.stall / 5);
        match io.send(&Message::Ping(self.timers.pings)) {
            // Whoever reads notices, too, and first hears why: the destination's last word came before.
            Err(error) if error.code == Code::LinkLost => {
                tracing::debug!(%error, "a ping was not sent");
            }
            Err(error) => self.lost(io, error),
            Ok(()) => {}
        }
    }

    /// Pages leaving this side are progress too.
    fn note_progress(&mut self, now: Moment) {
        let sent = self.pass.as_ref().map_or(0, |pass| pass.totals().bytes);
        if sent != self.timers.sent {
            self.timers.sent = sent;
            self.timers.moved = now;
        }
    }

    fn silence(&self, now: Moment) -> Option<MotionError> {
        if self.has_lost_link() {
            let why = "the control connection to the destination takes nothing any more";
            return Some(MotionError::new(Code::LinkLost, why));
        }
        if !keeps(Rule::SilenceIsNoticed) {
            return None;
        }
        let t = &self.timers;
        let stall = t.stall.as_secs_f64();
        if self.waits_for_answer() && t.answer_by.is_some_and(|by| by <= now) {
            return Some(MotionError::new(
                Code::LinkStalled,
                format!(
                    "the destination has not answered within {} s while {}",
                    BUILDING.max(t.stall).as_secs(),
                    match self.phase {
                        Phase::Connecting => "a connection was made",
                        Phase::Checking => "it was to build the machine",
                        _ => "data connections were made",
                    }
                ),
            ));
        }
        if self.linked && self.must_hear() && now.since(t.heard) >= t.stall {
            let why = format!("nothing came from the destination for {stall} s");
            return Some(MotionError::new(Code::LinkStalled, why));
        }
        if self.must_progress() && now.since(t.moved) >= t.stall {
            let why = format!("the destination answers but has taken nothing for {stall} s");
            return Some(MotionError::new(Code::LinkStalled, why));
        }
        None
    }

    fn timed_out(&mut self, io: &mut dyn SourceIo) {
        let timeout = self.options.timeout.take().unwrap_or_default();
        match self.options.timeout_action {
            TimeoutAction::Switch => {
                self.switch.set_blackout(Blackout::Unlimited);
                self.progress.limit_ns = None;
                self.switch_anyway = true;
                if self.phase == Phase::Resting {
                    self.timers.rest_until = None;
                    self.try_to(io, Self::next_pass);
                }
            }
            TimeoutAction::Cancel => {
                let why = format!(
                    "the motion has not converged within {} s: {}",
                    timeout.as_secs(),
                    self.progress.note
                );
                self.fail(io, MotionError::new(Code::TimedOut, why));
            }
        }
    }
}
