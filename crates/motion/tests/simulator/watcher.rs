//! Nobody watches: what motions tell is looked at in their reports.

use motion::{Observer, Report, Status};

pub struct Nobody;

impl Observer for Nobody {
    fn status(&self, _: Status) {}
    fn pass(&self, _: u32) {}
    fn stopped(&self) {}
    fn resumed(&self) {}
    fn undecided(&self, _: &str) {}
    fn finished(&self, _: &Report) {}
}
