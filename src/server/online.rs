//! `cirque check --online`: whether what the configuration names answers and takes our credentials.

use crate::cli::{self, BAD_CONFIG, FAILED, OK};
use crate::config::{self, Env};
use crate::snapshot::{Current, probes};
use crate::telemetry::delivery;
use crate::telemetry::langfuse::Destination;
use crate::upstream::dns;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Checks the file as `cirque check` does, then asks every upstream and every destination of
/// traces once, at the same time; the exit code.
pub fn check_online(file: Option<PathBuf>) -> u8 {
    let checked = cli::check(file.clone());
    if checked != OK {
        return checked;
    }
    let env = Env::from_process();
    let current = config::load(&cli::source(file, &env), &env)
        .map_err(|faults| faults.to_string())
        .and_then(|loaded| Current::new(loaded, SystemTime::now()));
    let current = match current {
        Ok(current) => current,
        Err(problem) => {
            cli::complain(&problem);
            return BAD_CONFIG;
        }
    };
    pingora::tls::install_default_crypto_provider();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(ask(current)),
        Err(error) => {
            cli::complain(&error.to_string());
            FAILED
        }
    }
}

async fn ask(current: Current) -> u8 {
    let current = Arc::new(current);
    let snapshot = current.pin();
    let resolver = dns::system_resolver();
    let mut asked = Vec::new();
    for upstream in &snapshot.upstreams {
        tokio::spawn(dns::keep_resolved(Arc::downgrade(upstream), resolver.clone()));
        let (current, upstream) = (Arc::clone(&current), Arc::clone(upstream));
        let what = format!("upstream `{}`", upstream.name);
        let answer = tokio::spawn(async move {
            probes::check(&current, &upstream).await.map(|()| "it answers".to_owned())
        });
        asked.push((what, answer));
    }
    let config = &snapshot.config;
    if !config.langfuse.is_on() {
        cli::say("off: traces to `langfuse`: it has no keys");
    }
    for to in Destination::all(&config.langfuse, &config.telemetry) {
        let what = format!("traces to `{}` at {}", to.name, to.url);
        asked.push((what, tokio::spawn(async move { delivery::check(&to).await })));
    }
    let mut code = OK;
    for (what, answer) in asked {
        match answer.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(words) => cli::say(&format!("ok: {what}: {words}")),
            Err(problem) => {
                cli::complain(&format!("FAILED: {what}: {problem}"));
                code = FAILED;
            }
        }
    }
    code
}
