//! `cirque usage`: what was spent, as a table for people, as CSV for spreadsheets, as JSON for programs.

use super::{BAD_CONFIG, FAILED, OK, USAGE, complain, say};
use crate::config::{self, Env};
use crate::store::embedded::{By, Line, report};
use crate::store::{Day, NanoUsd};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;
use time::Date;
use time::macros::format_description;

/// What to report, and how.
#[derive(Debug, Clone, Args)]
pub struct UsageArguments {
    /// One line for each of these.
    #[arg(long, value_enum, default_value_t = Grouping::Key)]
    by: Grouping,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// First day, such as 2026-11-01; by default the first of this month. Days are UTC.
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// Last day, included; by default today.
    #[arg(long, value_name = "DATE")]
    until: Option<String>,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Grouping {
    /// A caller's key.
    Key,
    /// The model asked for.
    Model,
    /// A day in UTC.
    Day,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, with a sum.
    Table,
    /// With a header line.
    Csv,
    /// An array of objects.
    Json,
}

impl Grouping {
    const fn by(self) -> By {
        match self {
            Self::Key => By::Key,
            Self::Model => By::Model,
            Self::Day => By::Day,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}

const COLUMNS: [&str; 6] = [
    "calls",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
];

/// Reports what the ledger of the configured store holds; the exit code.
pub fn usage(arguments: &UsageArguments, file: Option<PathBuf>) -> u8 {
    let (since, until) = match (day(arguments.since.as_deref()), day(arguments.until.as_deref())) {
        (Ok(since), Ok(until)) => (since, until),
        (Err(problem), _) | (_, Err(problem)) => {
            complain(&problem);
            return USAGE;
        }
    };
    let env = Env::from_process();
    let loaded = match config::load(&config::find(file, &env), &env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            complain(&faults.to_string());
            return BAD_CONFIG;
        }
    };
    let since = since.unwrap_or_else(|| first_of_month(SystemTime::now()));
    if until.is_some_and(|until| until < since) {
        complain(if arguments.since.is_some() {
            "--until is before --since: there is no day between them"
        } else {
            "--until is before the first of this month: give --since, too"
        });
        return USAGE;
    }
    let by = arguments.by;
    match report(&loaded.config.store.path, by.by(), Some(since), until) {
        Ok(lines) => {
            say(written(&lines, by.name(), arguments.format).trim_end());
            OK
        }
        Err(problem) => {
            complain(&problem);
            FAILED
        }
    }
}

fn day(text: Option<&str>) -> Result<Option<Day>, String> {
    let Some(text) = text else { return Ok(None) };
    let date = Date::parse(text, format_description!("[year]-[month]-[day]"));
    match date {
        Ok(date) => Ok(Some(Day::from_date(date))),
        Err(_) => Err(format!("`{text}` is not a date; write one such as 2026-11-25")),
    }
}

fn first_of_month(now: SystemTime) -> Day {
    let today = Day::of(now).date();
    Day::from_date(today.replace_day(1).unwrap_or(today))
}

fn written(lines: &[Line], name: &str, format: Format) -> String {
    match format {
        Format::Table => table(lines, name),
        Format::Csv => csv(lines, name),
        Format::Json => {
            let objects: Vec<Value> = lines.iter().map(|line| object(line, name)).collect();
            serde_json::to_string_pretty(&objects).unwrap_or_default()
        }
    }
}

fn cells(line: &Line) -> [String; 6] {
    [
        line.calls.to_string(),
        line.input.to_string(),
        line.cached_input.to_string(),
        line.output.to_string(),
        line.reasoning.to_string(),
        line.cost.to_string(),
    ]
}

fn object(line: &Line, name: &str) -> Value {
    let mut object = Map::new();
    object.insert(name.to_owned(), json!(line.name));
    let counts = [line.calls, line.input, line.cached_input, line.output, line.reasoning];
    for (column, count) in COLUMNS.iter().zip(counts) {
        object.insert((*column).to_owned(), json!(count));
    }
    object.insert("cost_usd".to_owned(), json!(line.cost.usd()));
    Value::Object(object)
}

fn csv(lines: &[Line], name: &str) -> String {
    let mut text = format!("{name},{}\n", COLUMNS.join(","));
    for line in lines {
        // Writing to a string cannot fail; here and below.
        writeln!(text, "{},{}", quoted(&line.name), cells(line).join(",")).ok();
    }
    text
}

/// A field as RFC 4180 wants it. Models are named by callers: what a spreadsheet would take for a formula
/// begins with an apostrophe, so that it is a text there.
fn quoted(field: &str) -> String {
    let is_formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let field = if is_formula { format!("'{field}") } else { field.to_owned() };
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

/// Whether it is shown as it is: not what controls a terminal, or turns the direction of what follows.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn table(lines: &[Line], name: &str) -> String {
    let mut rows = vec![[name].into_iter().chain(COLUMNS).map(str::to_owned).collect()];
    let row = |line: &Line| -> Vec<String> {
        // A caller's text must not draw on an operator's terminal.
        let name = line.name.chars().map(|c| if is_shown(c) { c } else { '?' }).collect();
        [name].into_iter().chain(cells(line)).collect()
    };
    rows.extend(lines.iter().map(row));
    rows.push(row(&sum(lines)));
    let columns = COLUMNS.len() + 1;
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if place == 0 {
                write!(text, "{cell:<width$}").ok();
            } else {
                write!(text, "  {cell:>width$}").ok();
            }
        }
        text.push('\n');
    }
    text
}

fn sum(lines: &[Line]) -> Line {
    let of = |count: fn(&Line) -> u64| lines.iter().map(count).sum();
    Line {
        name: "total".to_owned(),
        calls: of(|line| line.calls),
        input: of(|line| line.input),
        cached_input: of(|line| line.cached_input),
        output: of(|line| line.output),
        reasoning: of(|line| line.reasoning),
        cost: lines.iter().map(|line| line.cost).sum::<NanoUsd>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |name: &str, calls, nano| Line {
            name: name.to_owned(),
            calls,
            input: 300,
            cached_input: 512,
            output: 63,
            reasoning: 31,
            cost: NanoUsd(nano),
        };
        vec![line("acme/a,b", 2, 1_500_000_001), line("acme/c\u{7}", 10, 2)]
    }

    #[test]
    fn a_table_has_a_sum_and_draws_nothing() {
        let expected = "\
model     calls  input_tokens  cached_input_tokens  output_tokens  reasoning_tokens     cost_usd
acme/a,b      2           300                  512             63                31  1.500000001
acme/c?      10           300                  512             63                31  0.000000002
total        12           600                 1024            126                62  1.500000003
";
        assert_eq!(written(&lines(), "model", Format::Table), expected);
    }

    #[test]
    fn programs_get_every_digit() {
        let csv = written(&lines(), "model", Format::Csv);
        let mut rows = csv.lines();
        assert!(rows.next().unwrap().starts_with("model,calls,input_tokens,"));
        assert_eq!(rows.next(), Some("\"acme/a,b\",2,300,512,63,31,1.500000001"));
        let json: Value = serde_json::from_str(&written(&lines(), "model", Format::Json)).unwrap();
        assert_eq!(json[0]["model"], "acme/a,b");
        assert_eq!((&json[0]["calls"], &json[0]["reasoning_tokens"]), (&json!(2), &json!(31)));
        assert_eq!(json[0]["cost_usd"], 1.500_000_001);
    }

    #[test]
    fn what_callers_name_is_no_formula_and_draws_nothing() {
        for (name, field) in [
            ("=1+1", "'=1+1"),
            ("+cmd|x", "'+cmd|x"),
            ("-1", "'-1"),
            ("@SUM(1)", "'@SUM(1)"),
            ("=H(\"a\",1)", "\"'=H(\"\"a\"\",1)\""),
            ("acme/a=b", "acme/a=b"),
        ] {
            assert_eq!(quoted(name), field);
        }
        let turned = Line { name: "a\u{202e}b".to_owned(), ..lines().remove(0) };
        assert!(written(&[turned], "model", Format::Table).contains("a?b"));
    }

    #[test]
    fn a_date_is_a_date() {
        assert_eq!(day(Some("1970-01-02")), Ok(Some(Day(1))));
        assert_eq!(day(None), Ok(None));
        for wrong in ["yesterday", "2026-13-01", "2026-02-30", "2026-1-1"] {
            assert!(day(Some(wrong)).is_err(), "{wrong}");
        }
        let late = Day(20_782).begins() + std::time::Duration::from_hours(5);
        assert_eq!(first_of_month(late), Day(20_758));
    }
}
