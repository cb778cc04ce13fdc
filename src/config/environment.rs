//! A whole configuration from environment variables alone: OpenRouter behind one caller's key.

use super::env::Env;
use super::fault::Fault;
use super::sections::Config;
use crate::secret::Secret;
use crate::telemetry::config::LangfuseConfig;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::provider::Provider;

/// Settings and the variable each one comes from, so that a fault names what the operator wrote.
const ORIGINS: &[(&str, &str)] = &[
    ("admin.listen", "ADMIN_LISTEN"),
    ("cors.allowed_origins", "ALLOWED_ORIGINS"),
    ("keys[0].secret", "API_KEY"),
    ("langfuse.host", "LANGFUSE_HOST"),
    ("langfuse.public_key", "LANGFUSE_PUBLIC_KEY"),
    ("langfuse.secret_key", "LANGFUSE_SECRET_KEY"),
    ("upstreams[0].api_key", "OPENROUTER_API_KEY"),
    ("upstreams[0].base_url", "OPENROUTER_API_BASE"),
    ("upstreams[0].headers.HTTP-Referer", "HTTP_REFERER"),
    ("upstreams[0].headers.X-Title", "X_TITLE"),
];

/// What the variables say. Listeners, origins, the caller's key and the route are left to the
/// defaults, which read theirs for a file as well.
pub(super) fn read(env: &Env) -> Config {
    let mut config = Config::default();
    config.upstreams.push(openrouter(env));
    config.langfuse = langfuse(env);
    config
}

fn openrouter(env: &Env) -> UpstreamConfig {
    let mut upstream = UpstreamConfig::new("openrouter", Provider::OpenRouter);
    upstream.base_url = env.filled("OPENROUTER_API_BASE").map(Into::into);
    upstream.api_key = secret(env, "OPENROUTER_API_KEY");
    for (header, variable) in [("HTTP-Referer", "HTTP_REFERER"), ("X-Title", "X_TITLE")] {
        let value = env.filled(variable).map(|value| (header.to_owned(), value.to_owned()));
        upstream.headers.extend(value);
    }
    upstream
}

fn langfuse(env: &Env) -> LangfuseConfig {
    let mut langfuse = LangfuseConfig::default();
    let key = |name| secret(env, name).unwrap_or_else(|| Secret::new(String::new()));
    langfuse.public_key = key("LANGFUSE_PUBLIC_KEY");
    langfuse.secret_key = key("LANGFUSE_SECRET_KEY");
    if let Some(host) = env.filled("LANGFUSE_HOST") {
        langfuse.host = host.into();
    }
    langfuse
}

fn secret(env: &Env, name: &str) -> Option<Secret> {
    env.filled(name).map(|value| Secret::new(value.to_owned()))
}

/// The fault of starting with nothing at all, which is how most people meet this program.
pub(super) fn missing_key(env: &Env) -> Option<Fault> {
    if env.filled("OPENROUTER_API_KEY").is_some() {
        return None;
    }
    let hint = "export it or put `OPENROUTER_API_KEY=…` into .env; without a key try `cirque demo`; \
                for other providers copy what you need of conf/gateway.full.yaml to conf/gateway.yaml";
    Some(Fault {
        path: "OPENROUTER_API_KEY".into(),
        line: None,
        column: None,
        problem: "the variable is not set, and there is no configuration file".into(),
        hint: Some(hint.into()),
    })
}

/// Names the variable at fault instead of the setting it became.
pub(super) fn name_variable(mut fault: Fault) -> Fault {
    let origin = ORIGINS.iter().find(|(setting, _)| fault.path.starts_with(setting));
    if let Some((_, variable)) = origin {
        fault.path = (*variable).into();
    }
    fault
}
