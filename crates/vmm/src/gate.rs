//! Stopping and running all vCPUs at once.
//!
//! An *order* is a number: even means "stop", odd means "run". It only ever grows, so that a
//! thread that slept through a run and a stop still knows that it was asked something, and answers
//! it. Whoever stops signals all vCPUs and then waits once, for the count of those that have not
//! answered yet.
//!
//! A signal alone would be lost if it came after a vCPU's thread last looked at the order and
//! before it is in the guest. So `immediate_exit` is set in each vCPU's page first: `KVM_RUN`
//! started after that returns at once, and one started before that is interrupted by the signal
//! (Linux `Documentation/virt/kvm/api.rst`, section 5).

use crate::run_page::RunPage;
use rustix::thread::futex;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long a vCPU may take to stop before it is given up. Device accesses and page faults that
/// wait for another host end far earlier.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before the signals are sent again.
const AGAIN: Duration = Duration::from_millis(250);

/// How long the guest is left alone when it begins to run. Whoever looked at once whether it does would
/// do so on the processor of one of its vCPUs as often as not, which had yet to execute an instruction.
const FIRST_INSTANTS: Duration = Duration::from_millis(1);

/// What the vCPUs were last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order(u32);

impl Order {
    /// What every vCPU's thread has been told when it starts: to stop.
    pub const FIRST: Self = Self(0);

    /// Whether it is to run.
    pub fn is_run(self) -> bool {
        self.0 % 2 == 1
    }

    /// The one that comes after it: until it has been answered there is no further one.
    pub fn following(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// One vCPU, as seen by whoever signals it.
#[derive(Debug)]
struct Member {
    page: RunPage,
    /// Its thread; 0 before there is one.
    tid: AtomicI32,
}

/// The vCPUs of one machine and the order that they are under.
#[derive(Debug)]
pub(crate) struct Gate {
    order: AtomicU32,
    /// How many vCPUs have not answered the order to stop.
    unanswered: AtomicU32,
    /// How many vCPUs have yet to go into the guest under the order to run.
    outside: AtomicU32,
    /// When the last one went in, in nanoseconds since `epoch`.
    entered: AtomicU64,
    epoch: Instant,
    /// Set for good when the machine ends.
    ended: AtomicU32,
    members: Vec<Member>,
    /// Held while the order changes, never while waiting.
    changing: Mutex<()>,
}

/// Some vCPUs did not stop.
#[derive(Debug, thiserror::Error)]
#[error("{vcpus} vCPUs did not stop within {} s", .within.as_secs_f64())]
pub(crate) struct Stuck {
    vcpus: u32,
    within: Duration,
}

impl Gate {
    /// A gate for vCPUs with these pages. Their threads are yet to start, and to answer that they
    /// stand still: [`Self::stop`] waits for that too.
    pub fn new(pages: Vec<RunPage>) -> io::Result<Self> {
        install_handler()?;
        let member = |page| Member { page, tid: AtomicI32::new(0) };
        let members: Vec<_> = pages.into_iter().map(member).collect();
        Ok(Self {
            order: AtomicU32::new(Order::FIRST.0),
            unanswered: AtomicU32::new(count(&members)),
            outside: AtomicU32::new(0),
            entered: AtomicU64::new(0),
            epoch: Instant::now(),
            ended: AtomicU32::new(0),
            members,
            changing: Mutex::new(()),
        })
    }

    /// The page that vCPU `index` shares with the kernel.
    pub fn page(&self, index: usize) -> &RunPage {
        &self.members[index].page
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the vCPUs are told now.
    pub fn order(&self) -> Order {
        Order(self.order.load(SeqCst))
    }

    /// Lets all vCPUs run. They have all stopped: [`Self::stop`].
    pub fn open(&self) {
        let _changing = self.changing();
        let order = self.order.load(SeqCst);
        if !Order(order).is_run() {
            self.entered.store(0, SeqCst);
            self.outside.store(count(&self.members), SeqCst);
            self.order.store(order.wrapping_add(1), SeqCst);
            wake(&self.order);
        }
    }

    /// When the last vCPU went into the guest, if all have done so since [`Self::open`], which was just
    /// called. Returns after [`FIRST_INSTANTS`].
    pub fn all_entered(&self) -> Option<Instant> {
        std::thread::sleep(FIRST_INSTANTS);
        let entered = self.outside.load(SeqCst) == 0;
        entered.then(|| self.epoch + Duration::from_nanos(self.entered.load(SeqCst)))
    }

    /// What a vCPU does when it first goes into the guest under an order to run.
    pub fn note_entry(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.entered.fetch_max(now, SeqCst);
        self.outside.fetch_sub(1, SeqCst);
    }

    /// Tells all vCPUs to stop, without waiting for them. A vCPU may do this itself.
    pub fn close(&self) {
        let _changing = self.changing();
        let order = self.order.load(SeqCst);
        if Order(order).is_run() {
            self.unanswered.store(count(&self.members), SeqCst);
            self.order.store(order.wrapping_add(1), SeqCst);
            self.kick();
        }
    }

    /// Stops all vCPUs: none executes another guest instruction once this returns.
    pub fn stop(&self) -> Result<(), Stuck> {
        self.stop_within(PATIENCE)
    }

    /// As [`Self::stop`], waiting no longer than this.
    pub fn stop_within(&self, within: Duration) -> Result<(), Stuck> {
        self.close();
        let start = Instant::now();
        loop {
            match self.unanswered.load(SeqCst) {
                0 => return Ok(()),
                vcpus if start.elapsed() >= within => return Err(Stuck { vcpus, within }),
                left => {
                    let limit = within.saturating_sub(start.elapsed()).min(AGAIN);
                    if !wait(&self.unanswered, left, Some(limit)) {
                        self.kick();
                    }
                }
            }
        }
    }

    /// Whether all vCPUs have stopped.
    pub fn is_quiet(&self) -> bool {
        !self.order().is_run() && self.unanswered.load(SeqCst) == 0
    }

    /// Stops all vCPUs for good and has their threads end.
    pub fn end(&self) {
        self.ended.store(1, SeqCst);
        self.close();
        let _changing = self.changing();
        // Wakes those that wait for an order: it is even now, and stays so.
        self.order.fetch_add(2, SeqCst);
        wake(&self.order);
    }

    fn kick(&self) {
        for member in &self.members {
            member.page.set_immediate_exit(true);
        }
        let process = rustix::process::getpid().as_raw_nonzero().get();
        for member in &self.members {
            let thread = member.tid.load(SeqCst);
            if thread != 0 {
                // SAFETY: a system call on numbers. Should the thread have ended, its id is either
                // free or of another of our own threads, and the signal does nothing there.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, kick_signal()) };
            }
        }
    }

    /// The threads of the vCPUs that have one by now.
    pub fn threads(&self) -> Vec<i32> {
        let ids = self.members.iter().map(|member| member.tid.load(SeqCst));
        ids.filter(|id| *id != 0).collect()
    }

    /// What a vCPU's thread does first.
    pub fn join(&self, index: usize) {
        self.members[index].tid.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
    }

    /// What a vCPU's thread does last: its id may be given to another thread.
    pub fn leave(&self, index: usize) {
        self.members[index].tid.store(0, SeqCst);
    }

    /// Sleeps until there is an order other than `last`; `None` when the machine has ended.
    pub fn next(&self, last: Order) -> Option<Order> {
        loop {
            let order = self.order();
            if self.ended.load(SeqCst) != 0 && order != last && !order.is_run() {
                return None;
            }
            if order != last {
                return Some(order);
            }
            wait(&self.order, last.0, None);
        }
    }

    /// Clears the flag that keeps vCPU `index` out of the guest. Its thread has to look at the order
    /// after that and before it runs the vCPU: a change before it would else go unnoticed, and after
    /// a later one the flag is set again.
    pub fn enter(&self, index: usize) {
        self.members[index].page.set_immediate_exit(false);
    }

    /// A vCPU's answer to an order to stop.
    pub fn answer(&self) {
        if self.unanswered.fetch_sub(1, SeqCst) == 1 {
            wake(&self.unanswered);
        }
    }
}

fn count(members: &[Member]) -> u32 {
    u32::try_from(members.len()).expect("there are at most 64 vCPUs")
}

/// Sleeps until the word is no longer `value`, or is said to have changed, or time is up: then
/// `false`.
fn wait(word: &AtomicU32, value: u32, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| futex::Timespec::try_from(limit).ok());
    let result = futex::wait(word, futex::Flags::PRIVATE, value, limit.as_ref());
    result != Err(rustix::io::Errno::TIMEDOUT)
}

fn wake(word: &AtomicU32) {
    // It can only fail for an address that is none.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.cast_unsigned());
}

/// The signal that brings a thread out of `KVM_RUN`.
fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Has the signal do nothing but interrupt.
fn install_handler() -> io::Result<()> {
    extern "C" fn interrupt(_: i32) {}
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| {
        let handler: extern "C" fn(i32) = interrupt;
        // SAFETY: the structure is valid when zeroed, the handler does nothing, which is
        // async-signal-safe, and the signal is used for nothing else.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) != 0
        };
        if failed {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

/// Does something with a kick on its way to the calling thread, which takes no signals meanwhile. It is given
/// what keeps all signals out but that.
pub(crate) fn with_kick_pending<T>(act: impl FnOnce(u64) -> T) -> io::Result<T> {
    let result = |error: i32| match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    };
    // SAFETY: the set is initialised by `sigemptyset` before it is used, and lives as long as the calls.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above; the kick's handler does nothing.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, kick_signal());
        result(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        result(libc::raise(kick_signal()))?;
    }
    let done = act(!(1 << (kick_signal() - 1)));
    // SAFETY: as above. It is delivered here, if nothing has taken it.
    result(unsafe {
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    })?;
    Ok(done)
}

/// Has the calling thread take no signal but the kick and what its own faults raise.
pub(crate) fn mask_signals() -> io::Result<()> {
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    // SAFETY: the set is initialised by `sigfillset` before it is used, and lives as long as the
    // calls.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in faults.into_iter().chain([kick_signal()]) {
            libc::sigdelset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
