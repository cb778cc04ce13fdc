//! One gateway for many faults: each lane is a route, a key and upstreams of its own, so that what
//! is counted for one cell is not mixed with another's.

use super::cell::{Cell, SIZES};
use super::expect::Counts;
use super::fault::{Company, Fault, Http, Script, Shape, VERSIONS};
use crate::harness::{Config, Gateway, Origin, RefusedPort};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// So many lanes are driven at a time: enough to wait in parallel, few enough for two cores.
const AT_A_TIME: usize = 16;
/// So that no failure keeps later calls away, except where a fault is about just that.
const PATIENT: &str = "breaker: { failures: 1000, within: 30s, eject: 30s }";

/// Where an upstream is.
pub(super) enum Site {
    Scripted(Origin),
    Refused(RefusedPort),
}

/// A fault as one kind of call meets it.
pub(super) struct Lane {
    /// Name of the route's model and of the key; its upstreams begin with it.
    pub(super) name: String,
    pub(super) fault: &'static Fault,
    /// Between the gateway and the upstreams.
    pub(super) http: Http,
    pub(super) company: Company,
    /// Asked first.
    pub(super) bad: Site,
    /// Asked next.
    pub(super) other: Option<Site>,
    /// What callers do: what they ask for, how they talk to the gateway, how much they send.
    calls: Vec<(Shape, Http, usize)>,
}

/// Runs every cell of these faults.
pub(super) async fn run(faults: &'static [Fault]) {
    let mut lanes = Vec::new();
    for fault in faults {
        add_lanes(fault, &mut lanes).await;
    }
    let config =
        lanes.iter().fold(Config::new().without_keys(), |config, lane| lane.add_to(config));
    let gateway = Arc::new(Gateway::start(&config).await);
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    let mut cells = 0;
    for lane in lanes {
        let (gateway, turns) = (gateway.clone(), turns.clone());
        cells += lane.calls.len();
        running.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let mut counts = lane.warm_up(&gateway).await;
            for (shape, http, size) in &lane.calls {
                let cell = Cell { lane: &lane, shape: *shape, http: *http, size: *size };
                counts = cell.check(&gateway, &counts).await;
            }
        });
    }
    let mut failed = 0;
    while let Some(lane) = running.join_next().await {
        failed += usize::from(lane.is_err());
    }
    assert_eq!(failed, 0, "lanes failed, of {cells} cells in all");
    gateway.metric_becomes("cirque_inflight_requests", &[], 0.0).await;
    gateway.metric_becomes("cirque_upstream_inflight", &[], 0.0).await;
}

async fn add_lanes(fault: &'static Fault, lanes: &mut Vec<Lane>) {
    for http in VERSIONS {
        if fault.http1_only && http == Http::Two {
            continue;
        }
        for company in [Company::OneGood, Company::AllBad, Company::Nobody] {
            let calls = calls(fault, company);
            let at_once = if fault.is_alone { 1 } else { calls.len() };
            for calls in calls.chunks(at_once) {
                let bad = Site::bad(fault).await;
                let other = match company {
                    Company::OneGood => Some(Site::Scripted(quiet_origin().await)),
                    Company::AllBad => Some(Site::bad(fault).await),
                    Company::Nobody => None,
                };
                let name = format!("lane-{}-", lanes.len());
                let calls = calls.to_vec();
                lanes.push(Lane { name, fault, http, company, bad, other, calls });
            }
        }
    }
}

fn calls(fault: &Fault, company: Company) -> Vec<(Shape, Http, usize)> {
    let is_small = company == Company::Nobody || fault.is_brief;
    let sizes = if is_small { &SIZES[..1] } else { &SIZES[..] };
    let mut calls = Vec::new();
    for shape in fault.shapes {
        for http in VERSIONS {
            calls.extend(sizes.iter().map(|size| (*shape, http, *size)));
        }
    }
    calls
}

impl Site {
    async fn bad(fault: &Fault) -> Self {
        match fault.script {
            Script::Refuses => Self::Refused(RefusedPort::take()),
            Script::Says(_) => Self::Scripted(quiet_origin().await),
        }
    }

    fn base_url(&self) -> String {
        match self {
            Self::Scripted(origin) => origin.base_url(),
            Self::Refused(port) => port.base_url(),
        }
    }

    /// The origin, where there is one.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Scripted(origin) => Some(origin),
            Self::Refused(_) => None,
        }
    }
}

/// An origin without models: hundreds of long lists would be most of the gateway's work.
async fn quiet_origin() -> Origin {
    let origin = Origin::start().await;
    origin.lists(&[]);
    origin
}

impl Lane {
    /// Makes a call that goes well, so that the first one that does not goes over a used connection.
    /// What is counted of it is returned.
    async fn warm_up(&self, gateway: &Gateway) -> Counts {
        let Some(origin) = self.bad.origin() else { return Counts::default() };
        let cell = Cell { lane: self, shape: Shape::Plain, http: Http::One, size: SIZES[0] };
        let reply = gateway.call(&cell.request()).await;
        gateway.log_of(reply.assert_ok()).await;
        origin.take_calls();
        cell.counts(gateway).await
    }

    /// The upstream asked first.
    pub(super) fn bad_name(&self) -> String {
        format!("{}bad", self.name)
    }

    /// The upstream asked next.
    pub(super) fn other_name(&self) -> String {
        format!("{}other", self.name)
    }

    /// The caller's secret.
    pub(super) fn secret(&self) -> String {
        format!("sk-{}", self.name)
    }

    fn add_to(&self, config: Config) -> Config {
        let Self { name, fault, .. } = self;
        let http2 = if self.http == Http::Two { "http2: always" } else { "http2: never" };
        let bad = format!("{PATIENT}, {http2}, priority: 1, {}", fault.settings);
        let bad = bad.trim_end_matches(", ");
        let other = match self.company {
            Company::AllBad => bad.replace("priority: 1", "priority: 2"),
            Company::OneGood | Company::Nobody => format!("{PATIENT}, {http2}, priority: 2"),
        };
        let mut names = self.bad_name();
        let mut config = config
            .key(&format!("name: {name}, secret: \"{}\"", self.secret()))
            .upstream(&self.bad_name(), &self.bad.base_url(), bad);
        if let Some(site) = &self.other {
            names = format!("{names}, {}", self.other_name());
            config = config.upstream(&self.other_name(), &site.base_url(), &other);
        }
        config.route(&format!(
            "models: [\"{name}\"], upstreams: [{names}], balance: priority, \
             retry: {{ attempts: 2, budget: 1.0 }}"
        ))
    }
}
