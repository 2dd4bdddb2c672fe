//! One figure over several runs.

use serde::Serialize;

/// One figure over several runs. Serialized, it is a line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which benchmark.
    pub bench: &'static str,
    /// What was done.
    pub case: String,
    /// What was measured.
    pub metric: String,
    /// The unit of all figures of the row.
    pub unit: &'static str,
    /// How often.
    pub runs: usize,
    /// The least.
    pub min: f64,
    /// Half of all are below it; of a share, the mean in percent.
    pub median: f64,
    /// Nine in ten are below it.
    pub p90: f64,
    /// The most.
    pub max: f64,
    /// Median of what the kernel needs at least for the same thing, in the same run.
    pub floor_median: Option<f64>,
    /// Median over floor.
    pub floor_ratio: Option<f64>,
    /// Another VMM that did the same thing in the same run.
    pub peer: Option<String>,
    /// Its median.
    pub peer_median: Option<f64>,
    /// Median over that.
    pub peer_ratio: Option<f64>,
}

/// How the figures of several runs become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// The one in the middle.
    Median,
    /// The share of runs, in percent, whose figure is not 0.
    Share,
}

impl Sum {
    /// What a single figure counts as.
    fn each(self, figure: f64) -> f64 {
        match self {
            Self::Median => figure,
            Self::Share => 100.0 * f64::from(u8::from(figure != 0.0)),
        }
    }

    /// The one figure, of figures in ascending order.
    fn of(self, sorted: &[f64]) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
        match self {
            Self::Median => quantile(sorted, 5),
            Self::Share if sorted.is_empty() => None,
            Self::Share => {
                let met = sorted.iter().filter(|figure| **figure != 0.0).count();
                Some(100.0 * met as f64 / sorted.len() as f64)
            }
        }
    }
}

fn quantile(sorted: &[f64], tenths: usize) -> Option<f64> {
    sorted.get((sorted.len() * tenths / 10).min(sorted.len().checked_sub(1)?)).copied()
}

fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_by(f64::total_cmp);
    figures
}

impl Row {
    /// The row of these figures. `None` where there are none.
    #[must_use]
    pub fn of(
        bench: &'static str,
        case: &str,
        metric: &str,
        unit: &'static str,
        figures: Vec<f64>,
    ) -> Option<Self> {
        Self::summed(Sum::Median, bench, case, metric, unit, figures)
    }

    /// The same, with figures that are not medians.
    #[must_use]
    pub fn summed(
        sum: Sum,
        bench: &'static str,
        case: &str,
        metric: &str,
        unit: &'static str,
        figures: Vec<f64>,
    ) -> Option<Self> {
        let figures = sorted(figures);
        Some(Self {
            bench,
            case: case.to_owned(),
            metric: metric.to_owned(),
            unit,
            runs: figures.len(),
            min: sum.each(*figures.first()?),
            median: sum.of(&figures)?,
            p90: sum.each(quantile(&figures, 9)?),
            max: sum.each(*figures.last()?),
            floor_median: None,
            floor_ratio: None,
            peer: None,
            peer_median: None,
            peer_ratio: None,
        })
    }

    /// With the floor's figures beside it.
    #[must_use]
    pub fn beside_floor(mut self, sum: Sum, figures: Vec<f64>) -> Self {
        self.floor_median = sum.of(&sorted(figures));
        self.floor_ratio = ratio(self.median, self.floor_median);
        self
    }

    /// With another VMM's figures beside it.
    #[must_use]
    pub fn beside_peer(mut self, sum: Sum, peer: &str, figures: Vec<f64>) -> Self {
        self.peer_median = sum.of(&sorted(figures));
        self.peer = self.peer_median.map(|_| peer.to_owned());
        self.peer_ratio = ratio(self.median, self.peer_median);
        self
    }
}

/// A ratio, where there is something to compare with that is not nothing.
fn ratio(figure: f64, beside: Option<f64>) -> Option<f64> {
    beside.filter(|beside| *beside > 0.0).map(|beside| figure / beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_their_median_and_bounds() {
        let row = Row::of("b", "c", "m", "µs", vec![3.0, 1.0, 2.0, 10.0, 4.0]).unwrap();
        assert_eq!((row.min, row.median, row.max, row.runs), (1.0, 3.0, 10.0, 5));
        assert!(Row::of("b", "c", "m", "µs", vec![]).is_none());
    }

    #[test]
    fn nine_in_ten_are_below_the_ninth_tenth() {
        let row = Row::of("b", "c", "m", "µs", (0..100).map(f64::from).collect()).unwrap();
        assert_eq!((row.median, row.p90), (50.0, 90.0));
    }

    #[test]
    fn ratios_are_of_medians() {
        let row = Row::of("b", "c", "m", "ms", vec![2.0, 9.0, 1.0])
            .unwrap()
            .beside_floor(Sum::Median, vec![1.0, 0.5, 8.0])
            .beside_peer(Sum::Median, "qemu", vec![8.0]);
        assert_eq!((row.floor_ratio, row.peer_ratio), (Some(2.0), Some(0.25)));
        assert_eq!(row.peer.as_deref(), Some("qemu"));
        let alone = Row::of("b", "c", "m", "ms", vec![2.0])
            .unwrap()
            .beside_floor(Sum::Median, vec![0.0])
            .beside_peer(Sum::Median, "qemu", vec![]);
        assert_eq!((alone.floor_ratio, alone.peer_ratio, alone.peer), (None, None, None));
    }

    #[test]
    fn a_share_is_of_the_runs_in_which_it_held() {
        let row = Row::summed(Sum::Share, "b", "c", "m", "%", vec![1.0, 0.0, 1.0, 1.0]).unwrap();
        assert_eq!((row.median, row.min, row.max), (75.0, 0.0, 100.0));
    }

    #[test]
    fn a_line_of_json_has_the_keys_that_scripts_read() {
        let row = Row::of("move", "c", "m", "ms", vec![1.0]).unwrap();
        let value = serde_json::to_value(row).unwrap();
        for key in [
            "bench",
            "case",
            "metric",
            "unit",
            "runs",
            "min",
            "median",
            "p90",
            "max",
            "floor_median",
            "floor_ratio",
            "peer",
            "peer_median",
            "peer_ratio",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
