//! Checks that no single value's type can make: ranges, names that must exist or be unique,
//! settings that exclude each other. All faults at once.

mod callers;
mod features;
mod files;
mod listeners;
mod traces;
mod upstreams;
mod values;

pub(super) use files::{PemFile, pem_files};
pub(super) use values::{Listen, name};

use super::fault::Path;
use super::report::Report;
use super::sections::Config;
use crate::units::Span;

/// Checks a configuration whose defaults are filled in.
pub(super) fn validate(config: &Config, report: &mut Report<'_>) {
    listeners::check(config, report);
    callers::check(&config.keys, report);
    upstreams::check(&config.upstreams, report);
    upstreams::check_routes(config, report);
    features::check(config, report);
    traces::check(config, report);
}

/// A duration that is waited for: none would mean never, and more than a year is a slip.
fn wait(span: Span, path: &Path<'_>, report: &mut Report<'_>) {
    const YEAR: Span = Span::seconds(366 * 86_400);
    if span.0.is_zero() {
        report.fault(path, "zero would end every wait at once", "write a duration such as 30s");
    }
    if span > YEAR {
        report.fault(path, "longer than a year", "write a duration such as 30s");
    }
}

/// Bounds of a whole number, both included.
fn within(number: u64, (least, most): (u64, u64), path: &Path<'_>, report: &mut Report<'_>) {
    if number < least {
        report.fault(path, format!("less than {least}"), format!("write {least} or more"));
    }
    if number > most {
        report.fault(path, format!("more than {most}"), format!("write {most} or less"));
    }
}

/// Reports what a check of one value found.
fn note<T>(
    result: Result<T, (&'static str, &'static str)>,
    path: &Path<'_>,
    report: &mut Report<'_>,
) -> Option<T> {
    result.map_err(|(problem, hint)| report.fault(path, problem, hint)).ok()
}

/// Globs over model names: at least one, none empty.
fn globs(globs: &[String], path: &Path<'_>, report: &mut Report<'_>) {
    if globs.is_empty() {
        report.fault(path, "the list is empty", "name models, such as [\"openai/*\"] or [\"*\"]");
    }
    for (index, glob) in globs.iter().enumerate() {
        if glob.trim().is_empty() {
            report.fault(&path.index(index), "an empty model name", "write a name, or \"*\"");
        }
    }
}
