//! One cell of the matrix: a call, and everything that tells of it afterwards.

use super::expect::{Counts, Expected};
use super::fault::{Company, Ends, Http, Scene, Script, Shape};
use super::lane::{Lane, Site};
use crate::harness::{
    Client, Gate, Gateway, Http2Client, Http2Reply, Reply, Request, Response, samples, within_time,
};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;

const PATH: &str = "/v1/chat/completions";
/// For one call; a busy machine needs long for 5 MB through the small windows of HTTP/2.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of a request: within one packet, over every buffer, over every window.
pub(super) const SIZES: [usize; 3] = [1_000, 300_000, 5_000_000];

/// One call through a lane.
pub(super) struct Cell<'l> {
    pub(super) lane: &'l Lane,
    pub(super) shape: Shape,
    /// Between the caller and the gateway.
    pub(super) http: Http,
    pub(super) size: usize,
}

/// A reply of which more is to come.
enum Reading {
    One(Client),
    // Kept, because dropping the client ends the connection.
    Two { reply: Http2Reply, _client: Http2Client },
}

impl Reading {
    async fn open(http: Http, gateway: &Gateway, request: &Request) -> (Response, Self) {
        match http {
            Http::One => {
                let mut client = gateway.client().await;
                (client.open(request).await, Self::One(client))
            }
            Http::Two => {
                let mut client = gateway.http2().await;
                let reply = client.open_slowly(request).await;
                (reply.head.clone(), Self::Two { reply, _client: client })
            }
        }
    }

    /// The next piece of the body; `None` at its proper end.
    async fn piece(&mut self) -> Option<Result<Bytes, ()>> {
        match self {
            Self::One(client) => client.piece().await.map_err(drop).transpose(),
            Self::Two { reply, .. } => Some(reply.piece().await?.map_err(drop)),
        }
    }
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lane { fault, http, company, .. } = self.lane;
        let Self { shape, size, http: caller, .. } = self;
        let name = fault.name;
        write!(f, "[{name}: {shape:?}, {size} B, HTTP {caller:?} to {http:?}, {company:?}]")
    }
}

impl Cell<'_> {
    /// Makes the call and checks what all say of it.
    /// `before` is what was counted for this lane so far, and what is counted is returned.
    pub(super) async fn check(&self, gateway: &Gateway, before: &Counts) -> Counts {
        let lane = self.lane;
        let gate = Gate::new();
        self.script(&gate);
        let request = self.request();
        let expected = Expected::of(self, &gate);
        let reply = self.call(gateway, &request, &gate).await;
        expected.check_reply(self, &reply);
        expected.check_log(self, &gateway.log_of(&reply).await, &reply);
        let counts = self.counts(gateway).await;
        assert_eq!(counts.clone().less(before), expected.counts, "{self}: metrics");
        let status = Request::get("/status").key(&lane.secret());
        self.check_status(&expected, &gateway.call(&status).await);
        self.check_told(&expected, gateway).await;
        self.check_calls(&expected, &request.payload_bytes());
        counts
    }

    /// What the upstream that is asked first says.
    pub(super) fn script_of(&self, gate: &Gate) -> Option<Reply> {
        match self.lane.fault.script {
            Script::Refuses => None,
            Script::Says(script) => Some(script(&Scene { gate, http: self.lane.http })),
        }
    }

    fn script(&self, gate: &Gate) {
        let Some(reply) = self.script_of(gate) else { return };
        let is_bad = self.lane.company == Company::AllBad;
        let other = self.lane.other.as_ref().filter(|_| is_bad);
        for origin in [Some(&self.lane.bad), other].into_iter().flatten().filter_map(Site::origin) {
            origin.always(reply.clone());
        }
    }

    /// A call of exactly so many bytes, none like another's.
    pub(super) fn request(&self) -> Request {
        let stream = self.shape == Shape::Stream;
        let start = format!(
            "{{\"model\":\"{}\",\"stream\":{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"",
            self.lane.name
        );
        let end = "\"}]}";
        let filler = "abcdefghijklmnopqrstuvwxyz".repeat(self.size / 26 + 1);
        let filler = &filler.as_bytes()[..self.size - start.len() - end.len()];
        let body = [start.as_bytes(), filler, end.as_bytes()].concat();
        Request::new("POST", PATH).key(&self.lane.secret()).json_text(body)
    }

    async fn call(&self, gateway: &Gateway, request: &Request, gate: &Gate) -> Response {
        // The script waits until the caller has seen its beginning: a reset may overtake data.
        let after = match self.lane.fault.ends {
            Ends::Broken { after, .. } => after,
            Ends::Moves(_) | Ends::Passes { .. } => 0,
        };
        within_time(PATIENCE, &self.to_string(), async {
            let (mut reply, mut reading) = Reading::open(self.http, gateway, request).await;
            loop {
                if reply.body.len() >= after {
                    gate.open();
                }
                match reading.piece().await {
                    Some(Ok(piece)) => reply.body.extend_from_slice(&piece),
                    end => {
                        reply.complete = end.is_none();
                        return reply;
                    }
                }
            }
        })
        .await
    }

    /// Who was asked, and whether what was sent arrived intact.
    fn check_calls(&self, expected: &Expected, body: &Bytes) {
        let hash: [u8; 32] = Sha256::digest(body).into();
        let sites = [Some(&self.lane.bad), self.lane.other.as_ref()];
        for (number, (site, times)) in sites.into_iter().zip(expected.asked).enumerate() {
            let Some(origin) = site.and_then(Site::origin) else { continue };
            let calls = origin.take_calls();
            let seen: Vec<_> = calls.iter().map(|call| (call.length, call.http2)).collect();
            assert_eq!(calls.len(), times, "{self}: calls at upstream {number}: {seen:?}");
            let is_read = number == 1 && self.lane.company != Company::AllBad || !expected.is_early;
            for call in calls.iter().filter(|_| is_read) {
                assert_eq!(call.hash, hash, "{self}: the body at upstream {number}");
            }
        }
    }

    /// What is counted for this lane.
    pub(super) async fn counts(&self, gateway: &Gateway) -> Counts {
        let text = gateway.metrics().await;
        let ours: Vec<&str> = text.lines().filter(|line| line.contains(&self.lane.name)).collect();
        Counts::of(&samples(&ours.join("\n")), &self.lane.name)
    }

    fn check_status(&self, expected: &Expected, status: &Response) {
        let status = status.assert_ok().json();
        let list = status["upstreams"].as_array().expect("a list");
        let upstream = |name: &str| list.iter().find(|upstream| upstream["name"] == name);
        let names = [self.lane.bad_name(), self.lane.other_name()];
        let said = expected.last_errors.iter().zip(expected.states);
        for (name, (error, state)) in names.iter().zip(said) {
            let Some(upstream) = upstream(name) else { continue };
            assert_eq!(upstream["inflight"], 0, "{self}: {upstream}");
            let error = error.as_deref().map_or(Value::Null, Value::from);
            assert_eq!(upstream["last_error"]["what"], error, "{self}: {upstream}");
            // A pause that we chose ourselves may be over by now.
            if state != "resting" || upstream["state"] != "healthy" {
                assert_eq!(upstream["state"], state, "{self}: {upstream}");
            }
        }
    }

    /// An operator finds in the log who is kept from calls.
    async fn check_told(&self, expected: &Expected, gateway: &Gateway) {
        for (name, state) in
            [self.lane.bad_name(), self.lane.other_name()].iter().zip(expected.states)
        {
            let message = match state {
                "ejected" => "upstream ejected",
                "rate_limited" => "upstream rate limited",
                "resting" => "upstream resting",
                _ => continue,
            };
            let says = |line: &Value| line["message"] == message && line["upstream"] == **name;
            gateway.process.stderr.json_where(&format!("{self}: {message}"), says).await;
        }
    }
}
