//! Prometheus text, read as a scraper reads it.

/// One sample.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Metric name, with `_bucket`, `_sum` or `_count` for histograms.
    pub(crate) name: String,
    /// Labels in order.
    pub(crate) labels: Vec<(String, String)>,
    /// Value.
    pub(crate) value: f64,
}

impl Sample {
    fn has(&self, wanted: &[(&str, &str)]) -> bool {
        let labels = &self.labels;
        wanted.iter().all(|(name, value)| labels.iter().any(|(n, v)| n == name && v == value))
    }
}

/// Every sample of an exposition.
pub(crate) fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// The sum over the samples of this name with these labels; `None` without any.
pub(crate) fn total(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let all = samples(text);
    let mut found = all.iter().filter(|sample| sample.name == name && sample.has(labels));
    let first = found.next()?.value;
    Some(found.fold(first, |sum, sample| sum + sample.value))
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let mut pairs = Vec::new();
    let mut rest = labels.trim_end_matches('}');
    while let Some((label, after)) = rest.split_once("=\"") {
        let (value, others) = after.split_at(closing_quote(after)?);
        pairs.push((label.trim_start_matches(',').to_owned(), value.replace("\\\"", "\"")));
        rest = others.strip_prefix('"')?;
    }
    Some(Sample { name: name.to_owned(), labels: pairs, value: value.parse().ok()? })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' if !is_escaped => return Some(at),
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    None
}
