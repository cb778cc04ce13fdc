//! A request through Pingora, top to bottom: each phase is delegated to its chapter, in phase order.

mod admission;
mod admit;
mod answers;
mod attempts;
mod bill;
mod body;
mod caller;
mod clock;
mod connectors;
mod context;
mod cut;
pub mod edge;
mod finish;
mod forward;
mod half;
mod head;
mod headers;
mod judge;
mod looking;
mod plain;
mod pricing;
mod refused;
mod relay;
mod respond;
mod round;
mod send;
mod traced;
mod work;

use crate::limits::Limits;
use crate::snapshot::Current;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::delivery::Delivery;
use crate::telemetry::metrics::Metrics;
use async_trait::async_trait;
use connectors::Connectors;
use context::{Ctx, Ended};
use looking::Looking;
use pingora::prelude::{Error, HttpPeer, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;

/// What every request shares.
#[derive(Clone)]
pub struct Shared {
    /// The live snapshot.
    pub current: Arc<Current>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What callers may use.
    pub limits: Arc<Limits>,
    /// The access log.
    pub access_log: Arc<AccessLog>,
    /// Traces on their way.
    pub delivery: Arc<Delivery>,
    /// Connections to upstreams.
    pub connectors: Arc<Connectors>,
    /// Large bodies on their way into traces.
    pub looking: Arc<Looking>,
}

impl Shared {
    /// Shared state around a snapshot.
    pub fn new(
        current: Arc<Current>,
        metrics: Arc<Metrics>,
        limits: Arc<Limits>,
        access_log: Arc<AccessLog>,
        delivery: Arc<Delivery>,
    ) -> Self {
        let connectors = Arc::new(Connectors::new());
        let looking = Arc::new(Looking::new());
        Self { current, metrics, limits, access_log, delivery, connectors, looking }
    }
}

/// The gateway as Pingora sees it.
pub struct Gateway {
    shared: Shared,
}

impl Gateway {
    /// A gateway over shared state.
    pub const fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora's futures hold it in several places, and are copied whole for each request.
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Ctx::new(&self.shared))
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        let caller = session.as_mut();
        let admitted = match admit::admit(caller, ctx).await {
            Ok(admit::Admitted::Call(dialect)) => body::read(caller, ctx, dialect).await,
            Ok(admit::Admitted::Answered) => return Ok(true),
            Err(ended) => Err(ended),
        };
        match admitted {
            Ok(()) => Ok(false),
            Err(ended) => respond::end(caller, ctx, ended).await.map(|()| true),
        }
    }

    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> Result<bool> {
        let caller = session.as_mut();
        match attempts::run(caller, ctx).await {
            Ok(()) => Ok(false),
            Err(ended) => respond::end(caller, ctx, ended).await.map(|()| false),
        }
    }

    /// Never reached: the exchange is our own loop, in `proxy_upstream_filter`.
    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Err(Error::explain(
            pingora::ErrorType::InternalError,
            "the exchange loop owns the upstream",
        ))
    }

    /// Whatever had to be said to the caller has been said by `respond`; here the connection ends.
    async fn fail_to_proxy(&self, _: &mut Session, _: &Error, _: &mut Self::CTX) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    /// Pingora's own line would print the path with its query; the access log has all of it.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }

    fn request_summary(&self, _: &Session, ctx: &Self::CTX) -> String {
        ctx.request_id.to_string()
    }

    async fn logging(&self, _: &mut Session, _: Option<&Error>, ctx: &mut Self::CTX) {
        finish::finish(ctx);
    }
}

impl From<crate::error::Rejection> for Ended {
    fn from(rejection: crate::error::Rejection) -> Self {
        Self::Rejected(rejection)
    }
}
