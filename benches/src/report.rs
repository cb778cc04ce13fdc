//! The results of a run as a Markdown table beside the aims of the design.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The lines of a run: who was measured, at what, with which figures.
pub struct Results(Vec<Value>);

/// How Cirque is judged beside the bare proxy.
#[derive(Clone, Copy)]
enum Aim {
    /// At most this many times the bare figure.
    Factor(f64),
    /// At least this many times the bare figure.
    Share(f64),
    /// At most the bare figure and this much more.
    Extra(f64),
    /// At most this, whatever the bare proxy needs.
    Ceiling(f64),
}

impl Aim {
    fn is_met(self, bare: Option<f64>, cirque: f64) -> Option<bool> {
        match self {
            Self::Factor(times) => bare.map(|bare| cirque <= bare * times),
            Self::Share(times) => bare.map(|bare| cirque >= bare * times),
            Self::Extra(more) => bare.map(|bare| cirque <= bare + more),
            Self::Ceiling(most) => Some(cirque <= most),
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::Factor(times) => format!("at most {times} × bare"),
            Self::Share(times) => format!("at least {times} × bare"),
            Self::Extra(more) => format!("bare + {more} {unit}"),
            Self::Ceiling(most) => format!("at most {most} {unit}"),
        }
    }
}

/// How a row's figure comes from the results.
#[derive(Clone, Copy)]
enum Figure {
    /// The lowest of the rounds, times a scale: what was measured, where in its figures.
    Lowest(&'static str, &'static str, f64),
    /// Of many turns, the mean of the middle half.
    Middle(&'static str, &'static str),
    /// The highest of the rounds.
    Highest(&'static str, &'static str),
    /// What a gateway adds to the same call sent to the origin directly, times a scale.
    OverDirect(&'static str, &'static str, f64),
    /// How much of the streams' memory is still held after their end, in per cent.
    Kept,
}

/// The rows in order: work, unit, aim, figure.
const ROWS: &[(&str, &str, Aim, Figure)] = {
    use Aim::{Ceiling, Extra, Factor, Share};
    use Figure::{Highest, Kept, Lowest, Middle, OverDirect};
    const CALL: &str = "/cpu_us_per_call";
    const CHUNK: &str = "/cpu_us_per_chunk";
    &[
        ("CPU of a 1 KB chat call, core full", "µs", Factor(1.2), Lowest("cpu_call", CALL, 1.0)),
        ("CPU of one of 5,000 a second", "µs", Factor(1.2), Middle("turn", CALL)),
        ("calls a second on one core", "", Share(0.85), Highest("cpu_call", "/calls_per_second")),
        ("CPU of a paced chunk", "µs", Factor(1.1), Middle("turn_paced", CHUNK)),
        ("CPU of a chunk in a burst", "µs", Factor(1.1), Middle("turn_burst", CHUNK)),
        ("latency over direct, p50", "µs", Extra(40.0), OverDirect("call", "/p50_us", 1.0)),
        ("latency over direct, p99", "µs", Extra(100.0), OverDirect("call", "/p99_us", 1.0)),
        (
            "stream's first byte over direct, p50",
            "µs",
            Extra(40.0),
            OverDirect("stream", "/first_byte_p50_us", 1.0),
        ),
        (
            "stream's first byte over direct, p99",
            "µs",
            Extra(100.0),
            OverDirect("stream", "/first_byte_p99_us", 1.0),
        ),
        ("5 MB body over direct, p50", "ms", Extra(3.0), OverDirect("body", "/times/p50_us", 1e-3)),
        ("memory idle", "MiB", Ceiling(24.0), Lowest("memory", "/idle_kib", 1.0 / 1024.0)),
        ("memory of an open stream", "KiB", Extra(8.0), Lowest("memory", "/kib_per_stream", 1.0)),
        ("of it held 10 s after their end", "%", Ceiling(50.0), Kept),
        ("start to first answer", "ms", Ceiling(300.0), Lowest("start", "/ready_ms", 1.0)),
    ]
};

/// What something may add to a gateway without it. Encoding, spool and export are a part of tracing, the
/// store's own thread of limits.
struct Added {
    who: &'static str,
    than: &'static str,
    work: &'static str,
    unit: &'static str,
    most: f64,
    /// What was measured, where in its figures.
    figure: (&'static str, &'static str),
}

const ADDED: &[Added] = {
    const fn added(
        (who, work): (&'static str, &'static str),
        (most, unit): (f64, &'static str),
        figure: (&'static str, &'static str),
    ) -> Added {
        Added { who, than: "cirque", work, unit, most, figure }
    }
    // An outage must not be felt by those who trace.
    const fn away(work: &'static str, figure: (&'static str, &'static str)) -> Added {
        let aim = (20.0, "µs");
        Added { than: "traced", ..added(("away", work), aim, figure) }
    }
    const CALL: &str = "/cpu_us_per_call";
    const CHUNK: &str = "/cpu_us_per_chunk";
    const P50: (&str, &str) = ("turn_call", "/p50_us");
    const P99: (&str, &str) = ("turn_call", "/p99_us");
    &[
        added(
            ("limited", "all limits: CPU of a 1 KB chat call"),
            (5.0, "µs"),
            ("beside_limited", CALL),
        ),
        added(("crowded", "100,000 keys: CPU of a call"), (1.0, "µs"), ("beside_crowded", CALL)),
        added(("shared", "limits in Redis: latency, p50"), (1000.0, "µs"), P50),
        added(("shared", "limits in Redis: latency, p99"), (1000.0, "µs"), P99),
        added(
            ("traced", "tracing: CPU of a 1 KB chat call"),
            (10.0, "µs"),
            ("beside_traced", CALL),
        ),
        added(
            ("traced", "tracing: CPU of a paced chunk"),
            (1.0, "µs"),
            ("beside_traced_paced", CHUNK),
        ),
        added(
            ("traced", "tracing: CPU of a chunk in a burst"),
            (1.0, "µs"),
            ("beside_traced_burst", CHUNK),
        ),
        added(("traced", "tracing: latency, p50"), (20.0, "µs"), P50),
        added(
            ("traced", "tracing: memory of an open stream"),
            (8.0, "KiB"),
            ("memory", "/kib_per_stream"),
        ),
        away("Langfuse away instead of there: latency, p50", P50),
        away("Langfuse away instead of there: latency, p99", P99),
    ]
};
/// A mean, and how far off it may be: with 95 % certainty, by Student's distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mean {
    mean: f64,
    /// `None` of a single figure.
    error: Option<f64>,
}

/// Student's factors for two figures, three, and so on.
const STUDENT: [f64; 19] = [
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09,
];

impl Mean {
    /// Of figures that have nothing to do with each other; `None` of nothing.
    fn of(figures: &[f64]) -> Option<Self> {
        let last = figures.len().checked_sub(1)?;
        let count = figures.len() as f64;
        let mean = figures.iter().sum::<f64>() / count;
        let square = |figure: &f64| (figure - mean).powi(2);
        let variance = figures.iter().map(square).sum::<f64>() / (count - 1.0);
        let factor = last.checked_sub(1).map(|place| STUDENT.get(place).copied().unwrap_or(2.09));
        Some(Self { mean, error: factor.map(|factor| factor * (variance / count).sqrt()) })
    }

    /// Whether it is at most this, as far as that can be told.
    fn is_at_most(self, most: f64) -> &'static str {
        match self.error {
            None if self.mean <= most => "yes, once",
            Some(error) if self.mean + error <= most => "yes",
            Some(error) if self.mean - error <= most => "not shown",
            None | Some(_) => "no",
        }
    }
}

/// The mean of the middle half: a turn in which something else ran counts no more than another one.
fn middle(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let cut = figures.len() / 4;
    let middle = figures.get(cut..figures.len() - cut).filter(|middle| !middle.is_empty())?;
    Some(middle.iter().sum::<f64>() / middle.len() as f64)
}

fn show(figure: Option<f64>, unit: &str) -> String {
    let text = match figure {
        Some(figure) if figure.abs() >= 1000.0 => format!("{figure:.0} {unit}"),
        Some(figure) => format!("{figure:.1} {unit}"),
        None => "–".to_owned(),
    };
    text.trim_end().to_owned()
}

impl Results {
    /// Reads one JSON object a line.
    ///
    /// # Errors
    /// Where a line is not JSON.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map(Self)
    }

    /// The figures at this path, one a round.
    fn all<'a>(
        &'a self,
        who: &'a str,
        what: &'a str,
        path: &'a str,
    ) -> impl Iterator<Item = f64> + 'a {
        self.0
            .iter()
            .filter(move |line| line["who"] == who && line["what"] == what)
            .filter_map(move |line| line["figures"].pointer(path)?.as_f64())
    }

    /// The lowest of the rounds: other work on the machine only ever adds.
    fn lowest(&self, who: &str, what: &str, path: &str) -> Option<f64> {
        self.all(who, what, path).reduce(f64::min)
    }

    fn highest(&self, who: &str, what: &str, path: &str) -> Option<f64> {
        self.all(who, what, path).reduce(f64::max)
    }

    /// What a gateway takes more than another one in the same turn. Turns of one set of processes are
    /// alike; how far off it may be is told by the sets.
    fn more(&self, who: &str, than: &str, (what, path): (&str, &str)) -> Option<Mean> {
        let sets: BTreeSet<_> = self.0.iter().filter_map(|line| line["set"].as_u64()).collect();
        let of_set = |set: &u64| {
            let of = |who| self.of_set(*set, who, what, path);
            middle(of(who).zip(of(than)).map(|(who, than)| who - than).collect())
        };
        Mean::of(&sets.iter().filter_map(of_set).collect::<Vec<_>>())
    }

    fn of_set<'a>(
        &'a self,
        set: u64,
        who: &'a str,
        what: &'a str,
        path: &'a str,
    ) -> impl Iterator<Item = f64> + 'a {
        let lines = self.0.iter().filter(move |line| line["set"] == set);
        let lines = lines.filter(move |line| line["who"] == who && line["what"] == what);
        lines.filter_map(move |line| line["figures"].pointer(path)?.as_f64())
    }

    /// What a gateway adds to the same call sent to the origin directly.
    fn over_direct(&self, who: &str, what: &str, path: &str) -> Option<f64> {
        Some(self.lowest(who, what, path)? - self.lowest("direct", what, path)?)
    }

    /// A figure of one gateway, in the unit of its row.
    fn figure(&self, who: &str, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Lowest(what, path, scale) => Some(self.lowest(who, what, path)? * scale),
            Figure::Middle(what, path) => middle(self.all(who, what, path).collect()),
            Figure::Highest(what, path) => self.highest(who, what, path),
            Figure::OverDirect(what, path, scale) => {
                Some(self.over_direct(who, what, path)? * scale)
            }
            Figure::Kept => {
                let kib = |path| self.lowest(who, "memory", path);
                let (idle, open, after) =
                    (kib("/idle_kib")?, kib("/open_kib")?, kib("/after_kib")?);
                Some((after - idle).max(0.0) / (open - idle) * 100.0)
            }
        }
    }

    /// The table, with a line of caveats where there is one.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::from(
            "| work | bare Pingora | Cirque | ratio | aim | met |\n|---|--:|--:|--:|---|---|\n",
        );
        for (work, unit, aim, figure) in ROWS {
            let (bare, cirque) = (self.figure("bare", *figure), self.figure("cirque", *figure));
            let ratio = bare.zip(cirque).map_or("–".to_owned(), |(b, c)| format!("{:.2}", c / b));
            let met = match cirque.and_then(|cirque| aim.is_met(bare, cirque)) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "–",
            };
            let (bare, cirque, aim) = (show(bare, unit), show(cirque, unit), aim.text(unit));
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "| {work} | {bare} | {cirque} | {ratio} | {aim} | {met} |");
        }
        out + &self.caveat() + &self.added() + &self.keys()
    }

    /// What limits and traces add, in a table of their own; nothing where it was not measured.
    fn added(&self) -> String {
        let mut out = String::new();
        for Added { who, than, work, unit, most, figure } in ADDED {
            let Some(more) = self.more(who, than, *figure) else { continue };
            let error = more.error.map(|error| format!(" ± {error:.1}")).unwrap_or_default();
            let (adds, met) = (more.mean, more.is_at_most(*most));
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                out,
                "| {work} | {adds:.1}{error} {unit} | at most {most} {unit} | {met} |"
            );
        }
        if out.is_empty() {
            return out;
        }
        format!("\n| what is on | adds | aim | met |\n|---|--:|---|---|\n{out}")
    }

    /// How long many keys take to be read.
    fn keys(&self) -> String {
        let start = self.lowest("crowded", "start", "/ready_ms");
        let told = |ms| {
            format!("\n100,000 keys: first answer after {ms:.0} ms (aim: at most 1,000 ms).\n")
        };
        start.map(told).unwrap_or_default()
    }

    /// A gateway that was not saturated says nothing about calls a second.
    fn caveat(&self) -> String {
        let idle = ["bare", "cirque"].into_iter().filter_map(|who| {
            let share = self.highest(who, "cpu_call", "/cpu_share")?;
            (share < 0.95).then(|| format!("{who} had {:.0} % of its core", share * 100.0))
        });
        let idle: Vec<_> = idle.collect();
        if idle.is_empty() {
            return String::new();
        }
        let idle = idle.join(", ");
        format!("\nThe generator, not the gateway, was the limit of calls a second: {idle}.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_that_of_each_turn_and_as_sure_as_sets_of_processes_agree() {
        let mut lines = String::new();
        for (set, turn) in (1..=4).flat_map(|set| (0..12).map(move |turn| (set, turn))) {
            // The machine is slower by the turn, and once something else runs.
            let more = if turn == 3 { 90.0 } else { 4.0 + f64::from(set) / 10.0 };
            for (who, cpu) in [("cirque", 60.0), ("limited", 60.0 + more)] {
                let cpu = cpu + f64::from(turn);
                let _ = writeln!(
                    lines,
                    r#"{{"set":{set},"who":"{who}","what":"beside_limited","figures":{{"cpu_us_per_call":{cpu}}}}}"#
                );
            }
        }
        let results = Results::parse(&lines).unwrap();
        let figure = ("beside_limited", "/cpu_us_per_call");
        let more = results.more("limited", "cirque", figure).unwrap();
        assert!((more.mean - 4.25).abs() < 1e-6, "{more:?}");
        // A spread of 0.129 over the root of 4, by 3.18.
        assert!(more.error.is_some_and(|error| (error - 0.205).abs() < 1e-3), "{more:?}");
        let met = [5.0, 4.3, 4.0].map(|most| more.is_at_most(most));
        assert_eq!(met, ["yes", "not shown", "no"]);
        assert_eq!(results.more("traced", "cirque", figure), None);
        assert!(results.table().contains("| all limits: CPU of a 1 KB chat call | 4.2 ± 0.2 µs |"));
    }

    #[test]
    fn what_was_measured_once_says_so() {
        let once = Mean::of(&[3.0]).unwrap();
        assert_eq!(
            (once.error, once.is_at_most(3.0), once.is_at_most(2.0)),
            (None, "yes, once", "no")
        );
        assert_eq!(Mean::of(&[]), None);
    }
}
