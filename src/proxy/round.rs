//! Chapter 3, whose turn it is: the upstream to ask next for one model, and after which pause.

use super::context::Ctx;
use super::judge::Failure;
use crate::routing::{self, Candidate, Draw, Route};
use crate::snapshot::Snapshot;
use crate::upstream::live::CallGuard;
use crate::upstream::{Standing, Upstream};
use std::sync::Arc;
use std::time::Duration;

/// Before an upstream is asked a second time for one call: long enough for a restarted process to
/// accept connections again, short beside the seconds that a first token takes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(150);

/// The upstreams of one route, asked one after the other for one model.
pub(super) struct Round<'s> {
    snapshot: &'s Snapshot,
    route: &'s Route,
    draw: Draw,
    asked: Vec<Asked>,
    left: u32,
}

/// An upstream that has failed in this round.
struct Asked {
    position: usize,
    /// Whether it may be asked once more, and how long it wants to be left alone.
    again: Option<Duration>,
}

/// What comes next.
pub(super) enum Next<'s> {
    /// This upstream; its place is taken until the guard goes.
    Ask {
        upstream: &'s Arc<Upstream>,
        place: CallGuard,
        /// To be waited first, where it was asked before.
        pause: Option<Duration>,
    },
    /// None that may be asked.
    Nobody(Nobody),
}

/// Why there is none to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nobody {
    /// All have been asked, or as many as may be.
    Asked,
    /// The others have asked to be left alone, the most patient one for so long.
    RateLimited(Duration),
    /// The others have as many calls as they may have.
    Full,
}

impl<'s> Round<'s> {
    /// A round that has not begun.
    pub(super) fn new(snapshot: &'s Snapshot, route: &'s Route, ctx: &Ctx) -> Self {
        let session = ctx.session_id.as_deref().map(routing::hash);
        let draw = Draw { turn: route.turn(), random: rand::random(), session };
        Self { snapshot, route, draw, asked: Vec::new(), left: route.retry.attempts }
    }

    /// The next upstream for this model, in the caller's name for it; `now` counts from the
    /// process's start.
    pub(super) fn next(&mut self, model: &str, now: Duration) -> Next<'s> {
        if self.left == 0 {
            // One that was not asked may still say when it is worth trying again.
            return Next::Nobody(match self.nobody(model, now) {
                rests @ Nobody::RateLimited(_) => rests,
                Nobody::Asked | Nobody::Full => Nobody::Asked,
            });
        }
        let snapshot = self.snapshot;
        let mut is_sure = false;
        // Another call may take the last place between the look and the step: then look again.
        while let Some(position) = self.route.pick(&self.draw, |at| self.look(at, model, now)) {
            let Some(upstream) = snapshot.upstreams.get(position) else { break };
            let Some(place) = upstream.enter(now) else { continue };
            // It may also have become the trial of one that is out.
            let is_out = || matches!(upstream.standing(now), Standing::Ejected { .. });
            if !is_sure && !place.is_trial() && is_out() {
                is_sure = true;
                continue;
            }
            self.left -= 1;
            return Next::Ask { upstream, place, pause: None };
        }
        self.once_more(model, now).unwrap_or_else(|| Next::Nobody(self.nobody(model, now)))
    }

    /// An upstream has failed; it may be asked once more where the failure is of a kind that passes.
    pub(super) fn failed(&mut self, upstream: &Arc<Upstream>, failure: &Failure) {
        let is_this = |other: &Arc<Upstream>| Arc::ptr_eq(other, upstream);
        let Some(position) = self.snapshot.upstreams.iter().position(is_this) else { return };
        match self.asked.iter_mut().find(|asked| asked.position == position) {
            Some(asked) => asked.again = None,
            None => self.asked.push(Asked { position, again: failure.may_be_repeated_after() }),
        }
    }

    fn look(&self, position: usize, model: &str, now: Duration) -> Option<Candidate> {
        if self.asked.iter().any(|asked| asked.position == position) {
            return None;
        }
        let upstream = self.snapshot.upstreams.get(position)?;
        let inflight = upstream.live.inflight();
        if upstream.config.max_concurrent.is_some_and(|limit| inflight >= limit) {
            return None;
        }
        let rank = match standing(upstream, model, now) {
            Standing::Ready | Standing::Trial if upstream.live.quota.is_low(inflight, now) => 1,
            Standing::Ready | Standing::Trial => 0,
            Standing::Resting { .. } => 2,
            Standing::Unhealthy => 3,
            Standing::Ejected { .. } => 4,
            Standing::RateLimited { .. } => return None,
        };
        Some(Candidate { rank, inflight, load: upstream.live.load(now) })
    }

    /// Everybody has been asked: whoever may be asked again soonest.
    fn once_more(&mut self, model: &str, now: Duration) -> Option<Next<'s>> {
        let snapshot = self.snapshot;
        loop {
            let may = self.asked.iter_mut().filter(|asked| asked.again.is_some());
            let asked = may.min_by_key(|asked| asked.again)?;
            let wish = asked.again.take()?;
            let upstream = snapshot.upstreams.get(asked.position)?;
            let pause = wish + rand::random_range(SHORTEST_PAUSE..LONGEST_PAUSE);
            // Another call may have been told meanwhile to leave it alone for longer.
            if let Standing::RateLimited { until } = standing(upstream, model, now)
                && until > now + pause
            {
                continue;
            }
            if let Some(place) = upstream.enter(now) {
                self.left -= 1;
                return Some(Next::Ask { upstream, place, pause: Some(pause) });
            }
        }
    }

    fn nobody(&self, model: &str, now: Duration) -> Nobody {
        let others = self
            .route
            .upstreams()
            .filter(|position| !self.asked.iter().any(|asked| asked.position == *position));
        let others = others.filter_map(|position| self.snapshot.upstreams.get(position));
        let mut shortest: Option<Duration> = None;
        let mut is_full = false;
        for upstream in others {
            match standing(upstream, model, now) {
                Standing::RateLimited { until } => {
                    let left = until.saturating_sub(now);
                    shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
                }
                Standing::Ready
                | Standing::Trial
                | Standing::Resting { .. }
                | Standing::Unhealthy
                | Standing::Ejected { .. } => is_full = true,
            }
        }
        match shortest {
            _ if is_full => Nobody::Full,
            Some(left) => Nobody::RateLimited(left),
            None => Nobody::Asked,
        }
    }
}

/// How an upstream stands towards a call for this model.
fn standing(upstream: &Upstream, model: &str, now: Duration) -> Standing {
    let rest = upstream.live.has_resting_models().then(|| upstream.model_name(model));
    match rest.and_then(|name| upstream.live.model_rests_until(name, now)) {
        Some(until) => Standing::RateLimited { until },
        None => upstream.standing(now),
    }
}
