//! All series of one metric, each found by its label values.
//!
//! The `prometheus` crate's own vectors find a series by a hash of its label values joined without
//! a border: key `a` with model `bc` and key `ab` with model `c` would count as one. Here the
//! values are joined with one, and compared, not only hashed.

use super::table::{About, Kind};
use prometheus::core::Metric;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// ASCII's unit separator, which nobody writes in a name.
const BORDER: char = '\u{1f}';

/// What a family holds one of for each combination of label values.
pub(super) trait Series: Metric + Sized {
    /// A series at zero.
    fn zero(opts: Opts, kind: Kind) -> prometheus::Result<Self>;
}

impl Series for IntCounter {
    fn zero(opts: Opts, _: Kind) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Counter {
    fn zero(opts: Opts, _: Kind) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Gauge {
    fn zero(opts: Opts, _: Kind) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for IntGauge {
    fn zero(opts: Opts, _: Kind) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Histogram {
    fn zero(opts: Opts, kind: Kind) -> prometheus::Result<Self> {
        let opts = HistogramOpts::from(opts);
        Self::with_opts(match kind {
            Kind::Histogram(buckets) => opts.buckets(buckets.to_vec()),
            Kind::Counter | Kind::Gauge => opts,
        })
    }
}

/// The series of one metric.
pub(super) struct Family<M> {
    about: &'static About,
    series: Mutex<HashMap<String, M>>,
}

impl<M: Series> Family<M> {
    pub(super) fn new(about: &'static About) -> Self {
        Self { about, series: Mutex::default() }
    }

    /// Does something to the series with these label values, in the order of the table; makes it
    /// first where there is none. `None` where the table is wrong, which a test rules out.
    pub(super) fn with<R>(&self, values: &[&str], act: impl FnOnce(&M) -> R) -> Option<R> {
        let key = join(values);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = series.get(&key) {
            return Some(act(found));
        }
        let labels = self.about.labels.iter().zip(values);
        let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let opts = Opts::new(self.about.name, self.about.help).const_labels(labels.collect());
        let made = M::zero(opts, self.about.kind).ok()?;
        let result = act(&made);
        series.insert(key, made);
        Some(result)
    }
}

impl<M> Family<M> {
    /// Forgets every series: what is told anew each time must not keep what is no longer so.
    pub(super) fn clear(&self) {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn join(values: &[&str]) -> String {
    let mut key = String::with_capacity(values.iter().map(|value| value.len() + 1).sum());
    for value in values {
        key.push_str(value);
        key.push(BORDER);
    }
    key
}

/// What `/metrics` needs of a family, whatever its series are.
pub(super) trait Collect {
    /// The family with its series sorted by label values; `None` while it has no series.
    fn collect(&self) -> Option<MetricFamily>;
}

impl<M: Series> Collect for Family<M> {
    fn collect(&self) -> Option<MetricFamily> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = series.iter().collect();
        if sorted.is_empty() {
            return None;
        }
        sorted.sort_unstable_by_key(|(key, _)| *key);
        let mut family = MetricFamily::default();
        family.set_name(self.about.name.to_owned());
        family.set_help(self.about.help.to_owned());
        family.set_field_type(match self.about.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram(_) => MetricType::HISTOGRAM,
        });
        family.set_metric(sorted.into_iter().map(|(_, series)| series.metric()).collect());
        Some(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::table::{TIME_TO_FIRST_TOKEN, TOKENS};

    #[test]
    fn values_that_read_alike_when_joined_count_apart() {
        let family = Family::<IntCounter>::new(&TOKENS);
        family.with(&["a", "bc", "input"], |counter| counter.inc_by(1));
        family.with(&["ab", "c", "input"], |counter| counter.inc_by(2));
        assert_eq!(family.with(&["a", "bc", "input"], IntCounter::get), Some(1));
        assert_eq!(family.with(&["ab", "c", "input"], IntCounter::get), Some(2));
    }

    #[test]
    fn a_histogram_has_the_buckets_of_the_table() {
        let family = Family::<Histogram>::new(&TIME_TO_FIRST_TOKEN);
        assert!(family.collect().is_none());
        family.with(&["main", "other"], |histogram| histogram.observe(0.3));
        let collected = family.collect().unwrap();
        let Kind::Histogram(buckets) = TIME_TO_FIRST_TOKEN.kind else { panic!("not a histogram") };
        let bounds: Vec<_> = collected.get_metric()[0]
            .get_histogram()
            .get_bucket()
            .iter()
            .map(prometheus::proto::Bucket::upper_bound)
            .collect();
        assert_eq!(bounds, buckets);
    }
}
