//! The fault matrix: whatever an upstream does, the caller gets a whole answer or is told, and
//! metrics, log and `/status` say what happened.
//!
//! Each fault is a row of a table below (`before`, `after`, `status`). Its cells are {plain, stream}
//! × {1 KB, 300 KB, 5 MB of request} × {HTTP/1.1, HTTP/2 without TLS} of the caller × the same of
//! the upstream × {one bad upstream of two, all bad}, and a lone bad upstream.

mod after;
mod before;
mod cell;
mod expect;
mod fault;
mod lane;
mod status;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_fails_before_the_reply_moves_on() {
    lane::run(before::CONNECTION).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_instead_of_an_answer_moves_on() {
    lane::run(before::ERROR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_breaks_before_its_first_token_moves_on() {
    lane::run(before::REPLY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_moves_on_in_time() {
    lane::run(before::SILENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_breaks_after_its_first_token_never_ends_like_a_good_one() {
    lane::run(after::BROKEN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_falls_silent_after_its_first_token_never_ends_like_a_good_one() {
    lane::run(after::SILENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_like_a_fault_passes_untouched() {
    lane::run(after::ODD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_moves_on_or_passes_as_the_contract_says() {
    lane::run(status::MOVES_ON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_keeps_calls_away_moves_on() {
    lane::run(status::KEEPS_AWAY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_own_fault_is_answered_at_once() {
    lane::run(status::CALLERS_OWN).await;
}
