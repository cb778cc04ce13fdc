//! The private listener: metrics, probes, the redacted configuration and reload.

use crate::config::redacted;
use crate::limits::Limits;
use crate::snapshot::Current;
use crate::snapshot::reload::{Outcome, Reloader};
use crate::telemetry::delivery::Delivery;
use crate::telemetry::metrics::Metrics;
use crate::upstream::State;
use async_trait::async_trait;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::sync::Arc;

/// The admin plane; it has no keys, so it listens on loopback unless told otherwise.
pub struct Admin {
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    delivery: Arc<Delivery>,
    reloader: Arc<Reloader>,
}

impl Admin {
    /// An admin plane over shared state.
    pub const fn new(
        current: Arc<Current>,
        metrics: Arc<Metrics>,
        limits: Arc<Limits>,
        delivery: Arc<Delivery>,
        reloader: Arc<Reloader>,
    ) -> Self {
        Self { current, metrics, limits, delivery, reloader }
    }

    /// Whether calls can be served: not draining, and an upstream may be asked.
    fn is_ready(&self) -> bool {
        let now = self.current.begun.elapsed();
        !self.current.is_draining() && self.current.pin().upstreams.iter().any(|u| u.may_serve(now))
    }

    /// The metrics page. What follows from state kept elsewhere is read when it is asked for.
    fn metrics(&self) -> Vec<u8> {
        let now = self.current.begun.elapsed();
        self.metrics.forget_upstreams();
        for upstream in &self.current.pin().upstreams {
            self.metrics.upstream_healthy(&upstream.name, upstream.is_healthy());
            let (state, _) = upstream.state(now);
            for other in State::ALL {
                self.metrics.upstream_state(&upstream.name, other.as_str(), other == state);
            }
            for (kind, left) in upstream.live.quota.left(now) {
                if let Some(left) = left {
                    self.metrics.upstream_quota(&upstream.name, kind, left);
                }
            }
        }
        self.tell_limits();
        self.delivery.observe();
        self.metrics.render()
    }

    fn tell_limits(&self) {
        self.metrics.forget_limits();
        for account in &self.current.pin().limited {
            let standing = self.limits.standing(account);
            for (dimension, ratio) in standing.used_ratios() {
                self.metrics.limit_used(&account.key, dimension.as_str(), ratio);
            }
            if let Some(funds) = standing.budget.filter(|_| self.limits.knows_spend(account)) {
                self.metrics.budget_remaining(&account.key, funds.left().usd());
            }
        }
    }

    async fn reload(&self) -> Response<Vec<u8>> {
        match self.reloader.run().await {
            Outcome::Applied(generation) => {
                answer(StatusCode::OK, &json!({ "outcome": "applied", "generation": generation }))
            }
            Outcome::Unchanged(generation) => {
                answer(StatusCode::OK, &json!({ "outcome": "unchanged", "generation": generation }))
            }
            Outcome::Rejected(faults) => answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({ "outcome": "rejected", "faults": faults.lines().collect::<Vec<_>>() }),
            ),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let path = request.uri.path().to_owned();
        let method = request.method.clone();
        let expected = if path == "/reload" { Method::POST } else { Method::GET };
        let known =
            matches!(path.as_str(), "/metrics" | "/live" | "/ready" | "/config" | "/reload");
        if known && method != expected && !(expected == Method::GET && method == Method::HEAD) {
            let body = json!({ "error": format!("{path} takes {expected}") });
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, &body);
            if let Ok(allow) = HeaderValue::from_str(expected.as_str()) {
                response.headers_mut().insert(ALLOW, allow);
            }
            return response;
        }
        match path.as_str() {
            "/metrics" => raw(StatusCode::OK, "text/plain; version=0.0.4", self.metrics()),
            "/live" => answer(StatusCode::OK, &json!({ "status": "ok" })),
            "/ready" if self.is_ready() => answer(StatusCode::OK, &json!({ "status": "ready" })),
            "/ready" => {
                let why =
                    if self.current.is_draining() { "draining" } else { "no usable upstream" };
                answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": why }))
            }
            "/config" => answer(StatusCode::OK, &redacted(&self.current.pin().config)),
            "/reload" => self.reload().await,
            _ => {
                let paths = ["/metrics", "/live", "/ready", "/config", "POST /reload"];
                answer(StatusCode::NOT_FOUND, &json!({ "error": "not found", "paths": paths }))
            }
        }
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Vec<u8>> {
    raw(status, "application/json", body.to_string().into_bytes())
}

fn raw(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
