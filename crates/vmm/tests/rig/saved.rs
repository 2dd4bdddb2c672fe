//! A guest that was stopped and put aside, and machines that go on from there while its RAM comes.

use super::{PATIENCE, Rig, Screen};
use memory::userfault::Userfault;
use memory::{GuestRam, PAGE_SIZE, PageRange, PageSet};
use motion::fill::{
    FillObserver, FillOptions, FillReport, Outage, PageLane, PageReadError, PageService, PageSource,
};
use motion::{DestinationMachine as _, Machine as _, SourceMachine as _};
use state::Bundle;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use whimbrel_vmm::{MachineConfig, Vm};

/// What was saved.
pub struct Saved {
    config: MachineConfig,
    state: Bundle,
    present: PageSet,
    pages: Vec<u8>,
    screen: Arc<Screen>,
}

impl Saved {
    /// Stops this machine for good, and saves it.
    pub fn of(rig: &Rig) -> Arc<Self> {
        rig.vm.pause().unwrap();
        let _permit = rig.vm.surrender().unwrap();
        let ram = rig.vm.ram();
        let all = PageRange::new(0, ram.pages());
        let mut present = PageSet::new(ram.pages());
        ram.touched(all).unwrap().into_iter().for_each(|run| present.insert(run));
        let mut pages = vec![0; usize::try_from(all.bytes()).unwrap()];
        ram.read(all, &mut pages).unwrap();
        Arc::new(Self {
            config: rig.vm.config().clone(),
            state: rig.vm.save().unwrap(),
            present,
            pages,
            screen: rig.screen.clone(),
        })
    }

    pub fn present(&self) -> &PageSet {
        &self.present
    }
}

/// How reading what was saved goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Serves,
    /// After so many reads there is no answer.
    HangsAfter(u64),
    /// After so many reads there are only errors.
    FailsAfter(u64),
    /// Each read takes so long.
    Takes(Duration),
}

pub struct Source {
    saved: Arc<Saved>,
    recent: PageSet,
    mood: Mutex<Mood>,
    changed: Condvar,
    pub reads: AtomicU64,
}

impl Source {
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }
}

struct Lane<'a>(&'a Source);

impl PageSource for Source {
    fn present(&self) -> &PageSet {
        &self.saved.present
    }
    fn recent(&self) -> &PageSet {
        &self.recent
    }
    fn lane(&self) -> Box<dyn PageLane + '_> {
        Box::new(Lane(self))
    }
}

impl PageLane for Lane<'_> {
    fn read(&mut self, range: PageRange, _: &mut dyn FnMut()) -> Result<&[u8], PageReadError> {
        let source = self.0;
        let reads = source.reads.fetch_add(1, SeqCst);
        let mut mood = source.mood.lock().unwrap();
        loop {
            match *mood {
                Mood::HangsAfter(most) if reads >= most => {
                    mood = source.changed.wait(mood).unwrap();
                }
                Mood::FailsAfter(most) if reads >= most => {
                    let why = "the file is gone".to_owned();
                    return Err(PageReadError { page: range.start, why });
                }
                Mood::Takes(time) => {
                    drop(mood);
                    std::thread::sleep(time);
                    break;
                }
                _ => break,
            }
        }
        let start = usize::try_from(range.offset()).unwrap();
        let length = usize::try_from(range.count * PAGE_SIZE).unwrap();
        Ok(&source.saved.pages[start..start + length])
    }
}

/// What the page service said.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    Outage(Outage),
    Finished(Box<FillReport>),
}

/// Stops the machine on an outage, as its owner does.
struct Owner {
    vm: std::sync::Weak<Vm>,
    to: Mutex<Sender<Word>>,
}

impl FillObserver for Owner {
    fn outage(&self, outage: &Outage) {
        if let Some(vm) = self.vm.upgrade() {
            vm.stop_on_io_error(&outage.why);
        }
        let _ = self.to.lock().unwrap().send(Word::Outage(outage.clone()));
    }
    fn finished(&self, report: &FillReport) {
        let _ = self.to.lock().unwrap().send(Word::Finished(Box::new(report.clone())));
    }
}

/// A machine that goes on from what was saved.
pub struct Filled {
    pub rig: Rig,
    pub source: Arc<Source>,
    pub service: PageService,
    heard: Receiver<Word>,
    /// Dropped last: the machine ends while its pages do not come.
    _release: Release,
}

/// No thread hangs on when its test has ended.
struct Release(Arc<Source>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.set(Mood::Serves);
    }
}

impl Filled {
    pub fn new(saved: &Arc<Saved>, mood: Mood) -> Self {
        let config = saved.config.clone();
        let ram = GuestRam::new(config.memory, config.backing).unwrap();
        let rig = Rig::on(saved.screen.clone(), config, ram);
        let recent = PageSet::new(saved.present.pages());
        let source = Arc::new(Source {
            saved: saved.clone(),
            recent,
            mood: Mutex::new(mood),
            changed: Condvar::new(),
            reads: AtomicU64::new(0),
        });
        let (to, heard) = mpsc::channel();
        let owner = Owner { vm: Arc::downgrade(&rig.vm), to: Mutex::new(to) };
        let userfault = Userfault::open(rig.vm.ram().clone()).unwrap();
        let options = FillOptions {
            fault_threads: 2,
            stream_threads: 1,
            io_stall: Duration::from_secs(3600),
        };
        let service =
            PageService::start(userfault, source.clone(), Arc::new(owner), options).unwrap();
        rig.vm.restore(saved.state.clone()).unwrap();
        let _release = Release(source.clone());
        Self { rig, source, service, heard, _release }
    }

    pub fn start(&self) {
        self.rig.start();
    }

    /// What the page service says next.
    pub fn next_word(&self) -> Word {
        self.heard.recv_timeout(PATIENCE).unwrap()
    }
}
