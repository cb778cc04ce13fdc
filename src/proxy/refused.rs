//! Chapter 4, a refusal: whether another upstream may do better, and what an error says besides its status.

use super::caller::Caller;
use super::clock::Clock;
use super::context::{Call, Ctx};
use super::forward::Stopped;
use super::judge::{self, Failure};
use super::plain;
use super::relay::{Relayed, Reply};
use crate::telemetry::metrics::Outcome;
use crate::upstream::{Trouble, quota};
use std::time::{Duration, SystemTime};

/// How long the body of an error may take that comes after its header: it is there at once, or not
/// worth the caller's time.
const ERROR_BODY: Duration = Duration::from_secs(1);

/// A status that the next upstream may do better than, unless the body says otherwise. Only of two
/// does the body decide; any other is not waited for.
pub(super) async fn refused(
    caller: &mut Caller<'_>,
    ctx: &mut Ctx,
    call: &mut Call,
    (reply, outcome): (Reply<'_>, Outcome),
    clock: &mut Clock,
) -> Result<Relayed, Stopped> {
    let status = reply.header.status.as_u16();
    let headers = &reply.header.headers;
    let wall = SystemTime::now();
    let reset = || quota::reset_of_exhausted(headers, wall).filter(|_| status == 429);
    let failure =
        Failure::status(outcome, status, judge::retry_after(headers, wall).or_else(reset));
    if !matches!(status, 403 | 429) {
        return Err(failure.into());
    }
    let reading = plain::hold(caller, reply.connection, clock);
    let Ok(held) = tokio::time::timeout(ERROR_BODY, reading).await else {
        return Err(failure.into());
    };
    let held = match held {
        Ok(held) => held,
        Err(Stopped::CallerGone) => return Err(Stopped::CallerGone),
        // The status has been said, whatever became of the words behind it.
        Err(Stopped::Failed(_)) => return Err(failure.into()),
    };
    let body = held.pieces.concat();
    if status == 403 && judge::is_moderation(&body) {
        return plain::plain(caller, ctx, call, reply, clock, Some(held)).await;
    }
    if status == 429 && judge::is_out_of_quota(&body) {
        let what = "no quota is left (status 429, insufficient_quota)".into();
        return Err(Failure { what, trouble: Some(Trouble::Refused), ..failure }.into());
    }
    let is_of_model = status == 429 && judge::is_of_one_model(&body);
    Err(Failure { is_of_model, ..failure }.into())
}
