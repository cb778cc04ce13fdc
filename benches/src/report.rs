//! The results of a run as a Markdown table beside the aims of the design.

use serde_json::Value;
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
    use Figure::{Highest, Kept, Lowest, OverDirect};
    const CALL: &str = "/cpu_us_per_call";
    const CHUNK: &str = "/cpu_us_per_chunk";
    &[
        ("CPU of a 1 KB chat call, core full", "µs", Factor(1.2), Lowest("cpu_call", CALL, 1.0)),
        ("CPU of one of 5,000 a second", "µs", Factor(1.2), Lowest("steady", CALL, 1.0)),
        ("calls a second on one core", "", Share(0.85), Highest("cpu_call", "/calls_per_second")),
        ("CPU of a paced chunk", "µs", Factor(1.1), Lowest("cpu_paced", CHUNK, 1.0)),
        ("CPU of a chunk in a burst", "µs", Factor(1.1), Lowest("cpu_burst", CHUNK, 1.0)),
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

/// What tracing may add, encoding, spool and export included: work, unit, most, figure.
const TRACING: &[(&str, &str, f64, Figure)] = {
    use Figure::Lowest;
    &[
        ("CPU of a 1 KB chat call", "µs", 10.0, Lowest("steady", "/cpu_us_per_call", 1.0)),
        ("CPU of a paced chunk", "µs", 1.0, Lowest("cpu_paced", "/cpu_us_per_chunk", 1.0)),
        ("CPU of a chunk in a burst", "µs", 1.0, Lowest("cpu_burst", "/cpu_us_per_chunk", 1.0)),
        ("latency, p50", "µs", 20.0, Lowest("call", "/p50_us", 1.0)),
        ("memory of an open stream", "KiB", 8.0, Lowest("memory", "/kib_per_stream", 1.0)),
    ]
};

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

    /// What a gateway adds to the same call sent to the origin directly.
    fn over_direct(&self, who: &str, what: &str, path: &str) -> Option<f64> {
        Some(self.lowest(who, what, path)? - self.lowest("direct", what, path)?)
    }

    /// A figure of one gateway, in the unit of its row.
    fn figure(&self, who: &str, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Lowest(what, path, scale) => Some(self.lowest(who, what, path)? * scale),
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
        out + &self.limits() + &self.elsewhere() + &self.caveat() + &self.tracing()
    }

    /// What tracing adds, in a table of its own; nothing where it was not measured.
    fn tracing(&self) -> String {
        let mut out = String::new();
        for (work, unit, most, figure) in TRACING {
            let pair = self.figure("cirque", *figure).zip(self.figure("traced", *figure));
            let Some((without, with)) = pair else { continue };
            let met = if with - without <= *most { "yes" } else { "no" };
            let adds = show(Some(with - without), unit);
            let (without, with) = (show(Some(without), unit), show(Some(with), unit));
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                out,
                "| {work} | {without} | {with} | {adds} | at most {most} {unit} | {met} |"
            );
        }
        if out.is_empty() {
            return out;
        }
        let head =
            "| work | Cirque | with Langfuse | adds | aim | met |\n|---|--:|--:|--:|---|---|\n";
        format!("\n{head}{out}")
    }

    /// What limits and many keys cost, beside the same gateway without them.
    fn limits(&self) -> String {
        let cpu = |who| self.lowest(who, "steady", "/cpu_us_per_call");
        let (Some(without), Some(limited), Some(crowded), Some(start)) = (
            cpu("cirque"),
            cpu("limited"),
            cpu("crowded"),
            self.lowest("crowded", "start", "/ready_ms"),
        ) else {
            return String::new();
        };
        let (more, keys) = (limited - without, crowded - without);
        format!(
            "\nAll limits on: {limited:.1} µs a call, {more:.1} µs more than without (aim: at most 5 \
             µs). 100,000 keys: first answer after {start:.0} ms (aim: at most 1,000 ms), {keys:.1} µs \
             a call more than with one.\n"
        )
    }

    /// What a call waits longer for a Redis that decides, and for a Langfuse that does not answer.
    fn elsewhere(&self) -> String {
        let added = |who, path| {
            Some(self.lowest(who, "call", path)? - self.lowest("cirque", "call", path)?)
        };
        let mut out = String::new();
        for (who, what, aim) in [
            ("shared", "Limits and budget in Redis", "1,000 µs"),
            ("away", "Langfuse away", "nothing that can be told from noise"),
        ] {
            if let (Some(p50), Some(p99)) = (added(who, "/p50_us"), added(who, "/p99_us")) {
                // Writing to a `String` cannot fail.
                let _ = writeln!(
                    out,
                    "\n{what}: a call takes {p50:.0} µs more at p50, {p99:.0} µs at p99 (aim: {aim})."
                );
            }
        }
        out
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
