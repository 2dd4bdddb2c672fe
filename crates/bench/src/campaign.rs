//! Who runs a case when: all contenders in turn, A B A B, so that whatever changes on the host
//! meanwhile meets them alike.

use crate::cases::{Case, Contender, Course, Metric, Suite};
use crate::peer::Peer;
use crate::raw::{Raw, Sample};
use crate::warm::warm;
use crate::{BenchError, Place, Row};
use serde_json::Value;
use std::time::Duration;

/// What a floor is called among the samples.
const FLOOR: &str = "floor";
/// Failures in a row after which a contender has had its chance.
const CHANCES: usize = 3;

/// Who takes part, and how often.
pub struct Campaign<'a> {
    /// Whimbrel.
    pub own: &'a dyn Peer,
    /// The other VMM.
    pub peer: Option<&'a dyn Peer>,
    /// Where their files go.
    pub place: &'a Place,
    /// Runs of each contender, at most; without it as many as the case says.
    pub runs: Option<usize>,
}

/// What a case takes, about, when it is run as often as it says.
#[must_use]
pub fn expected(case: &Case, with_peer: bool) -> Duration {
    let times = |each: Duration, count: usize| each * u32::try_from(count).unwrap_or(u32::MAX);
    let [own, peer, floor, set_up] = case.takes;
    let peers = if with_peer { case.runs.peer } else { 0 };
    set_up
        + times(own, case.runs.own)
        + times(peer, peers)
        + times(floor, case.runs.floor.div_ceil(5))
}

/// One that takes part in a case.
struct Entrant<'a> {
    name: &'static str,
    contender: Contender<'a>,
    /// Samples that are still wanted.
    wanted: usize,
    course: Option<Box<dyn Course + 'a>>,
    place: &'a Place,
    failures: usize,
}

impl<'a> Campaign<'a> {
    fn entrants(&self, case: &Case, raw: &Raw) -> Vec<Entrant<'a>> {
        let most = |count: usize| self.runs.map_or(count, |runs| runs.min(count.max(1)));
        // Who says how often to run means Whimbrel, even beyond what the case says.
        let own = self.runs.unwrap_or(case.runs.own);
        let mut all = vec![(self.own.name(), Contender::Vmm(self.own), own)];
        if case.runs.floor > 0 {
            all.push((FLOOR, Contender::Floor(self.own), most(case.runs.floor)));
        }
        if let Some(peer) = self.peer.filter(|_| case.runs.peer > 0) {
            all.push((peer.name(), Contender::Vmm(peer), most(case.runs.peer)));
        }
        all.into_iter()
            .map(|(name, contender, runs)| Entrant {
                name,
                contender,
                wanted: runs.saturating_sub(raw.count(case.name, name)),
                course: None,
                place: self.place,
                failures: 0,
            })
            .collect()
    }

    /// Runs a case, as far as `raw` does not hold it already. `seen` is called after each run.
    ///
    /// # Errors
    /// When a sample cannot be kept. A run that fails is a sample, too.
    pub fn run(
        &self,
        case: &Case,
        raw: &mut Raw,
        mut seen: impl FnMut(&Sample),
    ) -> Result<(), BenchError> {
        let mut entrants = self.entrants(case, raw);
        let rounds = entrants.iter().map(|entrant| entrant.wanted).max().unwrap_or(0);
        if rounds > 0 {
            // Each of them has a guest at its old place and at its new one.
            let guests = 2 * entrants.iter().filter(|entrant| entrant.wanted > 0).count() as u64;
            warm(guests * self.place.bytes(case.touches))?;
        }
        let shares: Vec<usize> = entrants.iter().map(|entrant| entrant.wanted).collect();
        for round in 0..rounds {
            for (entrant, share) in entrants.iter_mut().zip(&shares) {
                if !is_due(round, *share, rounds) || entrant.wanted == 0 {
                    continue;
                }
                for sample in entrant.run(case) {
                    seen(&sample);
                    raw.add(sample)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether one that runs `share` times in all `rounds` runs in this one: evenly spread.
fn is_due(round: usize, share: usize, rounds: usize) -> bool {
    (round + 1) * share / rounds > round * share / rounds
}

impl Entrant<'_> {
    fn run(&mut self, case: &Case) -> Vec<Sample> {
        let outcome = self.attempt(case);
        let sample = |figures, error, detail| Sample {
            case: case.name.to_owned(),
            who: self.name.to_owned(),
            figures,
            error,
            detail,
        };
        match outcome {
            Ok(all) => {
                let samples: Vec<_> = all
                    .into_iter()
                    .map(|(figures, detail)| sample(figures, None, detail))
                    .collect();
                self.failures = 0;
                self.wanted = self.wanted.saturating_sub(samples.len());
                samples
            }
            Err(error) => {
                let failed = sample(Default::default(), Some(error.to_string()), Value::Null);
                self.course = None;
                self.failures += 1;
                if self.failures == CHANCES {
                    self.wanted = 0;
                }
                vec![failed]
            }
        }
    }

    fn attempt(&mut self, case: &Case) -> Result<Vec<(crate::raw::Figures, Value)>, BenchError> {
        let course = match &mut self.course {
            Some(course) => {
                course.wake()?;
                course
            }
            none => none.insert((case.begin)(self.contender, self.place)?),
        };
        let outcome = course.run()?;
        course.rest()?;
        Ok(outcome)
    }
}

/// The rows of a case, of all samples that there are.
#[must_use]
pub fn rows(
    suite: &Suite,
    case: &'static Case,
    raw: &Raw,
    peer: Option<&str>,
) -> Vec<(&'static Metric, Row)> {
    let figures = |who: &str, metric: &Metric| -> Vec<f64> {
        let ours = raw.samples().iter().filter(|s| s.case == case.name && s.who == who);
        ours.filter_map(|sample| sample.figures.get(metric.name).copied()).collect()
    };
    let row = |metric: &'static Metric| {
        let own = figures("whimbrel", metric);
        let row = Row::summed(metric.sum, suite.name, case.name, metric.name, metric.unit, own)?
            .beside_floor(metric.sum, figures(FLOOR, metric));
        Some(match peer {
            Some(peer) => row.beside_peer(metric.sum, peer, figures(peer, metric)),
            None => row,
        })
    };
    case.metrics.iter().filter_map(|metric| Some((metric, row(metric)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;
    use crate::raw::Figures;

    #[test]
    fn turns_are_spread_evenly_and_none_is_left_out() {
        for (share, rounds) in [(1, 1), (3, 10), (10, 10), (20, 50), (0, 5)] {
            let due: Vec<usize> = (0..rounds).filter(|r| is_due(*r, share, rounds)).collect();
            assert_eq!(due.len(), share);
            let gaps: Vec<usize> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min(), gaps.iter().max());
            assert!(least.zip(most).is_none_or(|(least, most)| most - least <= 1), "{due:?}");
        }
    }

    #[test]
    fn rows_stand_beside_floor_and_peer_of_the_same_case() {
        let case = cases::MOVE.find(&["idle-blackout".into()]).unwrap()[0];
        let mut raw = Raw::default();
        for (case, who, blackout) in [
            ("idle-blackout", "whimbrel", 1.0),
            ("idle-blackout", "floor", 0.5),
            ("idle-blackout", "qemu", 4.0),
            ("sparse-total", "qemu", 99.0),
        ] {
            raw.add(Sample {
                case: case.into(),
                who: who.into(),
                figures: Figures::from([("blackout".into(), blackout)]),
                error: None,
                detail: Value::Null,
            })
            .unwrap();
        }
        let rows = rows(&cases::MOVE, case, &raw, Some("qemu"));
        assert_eq!(rows.len(), 1, "nothing else was measured");
        let row = &rows[0].1;
        assert_eq!((row.floor_ratio, row.peer_ratio), (Some(2.0), Some(0.25)));
    }
}
