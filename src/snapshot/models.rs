//! The catalogue, kept fresh in the background: stale rather than failing, never on a request's path.

use super::labels::Labels;
use super::{Current, Snapshot};
use crate::catalogue::{Catalogue, UpstreamList, UpstreamView};
use crate::upstream::{Fetcher, Upstream};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Between two fetches of one upstream's list; providers add models about daily.
const REFRESH: Duration = Duration::from_mins(5);
/// After a failed fetch; doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(1);
/// For one fetch, its body included. OpenRouter's whole list is under 1 MiB.
const FETCH: Duration = Duration::from_secs(20);
/// A longer list is no list.
const MAX_LIST: usize = 32 << 20;
/// Most names from a catalogue that become metric labels.
const MAX_LABELS: usize = 500;

/// The merged catalogue and the lists it was merged from.
#[derive(Debug)]
pub struct Models {
    merged: ArcSwap<Merged>,
    /// Last good list by upstream name. Background tasks write it, no request ever reads it.
    lists: Mutex<HashMap<Arc<str>, Arc<UpstreamList>>>,
    ended_first: watch::Sender<usize>,
}

/// A catalogue and the labels it allows.
#[derive(Debug, Default)]
pub struct Merged {
    catalogue: Catalogue,
    labels: Labels,
}

impl Merged {
    /// The name as a metric label, if it is among the first 500.
    pub fn label(&self, model: &str) -> Option<Arc<str>> {
        self.labels.get(model)
    }
}

impl Deref for Merged {
    type Target = Catalogue;
    fn deref(&self) -> &Catalogue {
        &self.catalogue
    }
}

impl Default for Models {
    fn default() -> Self {
        Self {
            merged: ArcSwap::default(),
            lists: Mutex::default(),
            ended_first: watch::Sender::new(0),
        }
    }
}

impl Models {
    /// The catalogue as it is now.
    pub fn load(&self) -> arc_swap::Guard<Arc<Merged>> {
        self.merged.load()
    }

    /// Waits until every upstream's first fetch has ended, well or not, or the time is over: a
    /// client that asks right after the start should not see an empty list.
    pub async fn wait_first(&self, upstreams: usize, at_most: Duration) {
        let mut ended = self.ended_first.subscribe();
        // Either the fetches ended or the time did; the caller serves what there is.
        let _either = tokio::time::timeout(at_most, ended.wait_for(|n| *n >= upstreams)).await;
    }

    fn store(&self, upstream: &Upstream, list: UpstreamList) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.insert(Arc::clone(&upstream.name), Arc::new(list));
    }

    /// Merges the lists of a snapshot's upstreams, in their configured order.
    pub fn merge(&self, snapshot: &Snapshot) {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let views: Vec<_> = snapshot
            .upstreams
            .iter()
            .filter_map(|upstream| Some((view(upstream), lists.get(&upstream.name)?)))
            .collect();
        let catalogue = Catalogue::merge(views.iter().map(|(view, list)| (view, &***list)));
        let labels = Labels::from_names(catalogue.ids().take(MAX_LABELS));
        self.merged.store(Arc::new(Merged { catalogue, labels }));
    }
}

fn view(upstream: &Upstream) -> UpstreamView<'_> {
    UpstreamView {
        name: &upstream.name,
        aliases: &upstream.config.models,
        prefix_strip: upstream.config.prefix_strip.as_deref(),
    }
}

/// Fetches one upstream's list again and again until the upstream is gone.
pub async fn keep_fresh(current: Arc<Current>, upstream: Weak<Upstream>) {
    let mut fetcher = Fetcher::default();
    let mut first = true;
    let mut retry = RETRY;
    loop {
        let Some(target) = upstream.upgrade() else { return };
        let fetched = match fetcher.client(&target, FETCH) {
            Some(client) => fetch(client, &target).await,
            None => Err("no HTTP client could be built".to_owned()),
        };
        if !current.has(&target) {
            // A reload has put another one in its place, and this list may be another host's.
            return;
        }
        let wait = match fetched {
            Ok(list) => {
                current.models.store(&target, list);
                current.models.merge(&current.pin());
                retry = RETRY;
                REFRESH
            }
            Err(problem) => {
                tracing::warn!(upstream = %target.name, problem, "model list not fetched");
                let wait = retry;
                retry = (retry * 2).min(REFRESH);
                wait
            }
        };
        drop(target);
        if std::mem::take(&mut first) {
            current.models.ended_first.send_modify(|ended| *ended += 1);
        }
        tokio::time::sleep(wait).await;
    }
}

async fn fetch(client: &reqwest::Client, upstream: &Upstream) -> Result<UpstreamList, String> {
    let request = upstream.get(client, &format!("{}/models", upstream.base.path));
    let mut reply = request.send().await.map_err(|error| error.without_url().to_string())?;
    if !reply.status().is_success() {
        return Err(format!("status {}", reply.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(piece) = reply.chunk().await.map_err(|error| error.without_url().to_string())? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_LIST {
            return Err("the list is too long".into());
        }
    }
    UpstreamList::parse(&body)
}
