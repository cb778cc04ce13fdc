//! What a configuration leaves out, filled in, so that nothing later needs a fallback of its own.

use super::env::Env;
use super::fault::Path;
use super::keys::KeyConfig;
use super::report::Report;
use super::sections::Config;
use crate::routing::config::RouteConfig;
use crate::secret::Secret;
use crate::telemetry::config::LangfuseConfig;
use crate::units::OneOrMany;

/// The data plane's port where nobody names one.
const PORT: u16 = 8000;
const ADMIN_LISTEN: &str = "127.0.0.1:9090";

/// Fills in `server.listen`, `admin.listen`, every `base_url` whose provider has a public one, the
/// route of a file without routes, the origins of `ALLOWED_ORIGINS` where none is named, and the
/// key of `API_KEY` where no caller is; takes out what expanded to nothing and may.
pub(super) fn fill(config: &mut Config, env: &Env, report: &mut Report<'_>) {
    listeners(config, env, report);
    if config.cors.allowed_origins.is_empty() {
        let origins = env.filled("ALLOWED_ORIGINS").unwrap_or_default().split(',').map(str::trim);
        config.cors.allowed_origins = origins.filter(|o| !o.is_empty()).map(Into::into).collect();
    }
    for upstream in &mut config.upstreams {
        let public = upstream.provider.row().base_url;
        upstream.base_url = upstream.base_url.take().or_else(|| public.map(Into::into));
        upstream.headers.retain(|_, value| !value.is_empty());
    }
    let has_upstreams = !config.upstreams.is_empty();
    if config.routes.is_empty() && has_upstreams && !report.has_lost("routes") {
        config.routes.push(RouteConfig {
            models: vec!["*".into()],
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            balance: crate::routing::config::Balance::default(),
            retry: crate::routing::config::RetryConfig::default(),
            fallback_models: Vec::new(),
        });
    }
    if config.keys.is_empty()
        && !report.has_lost("keys")
        && let Some(key) = env.filled("API_KEY")
    {
        config.keys.push(KeyConfig::with_secret("default", Secret::new(key.to_owned())));
    }
    config.store.url = config.store.url.take().filter(|url| !url.is_empty());
    let langfuse = LangfuseConfig::default();
    for (value, default) in [
        (&mut config.langfuse.host, langfuse.host),
        (&mut config.langfuse.environment, langfuse.environment),
    ] {
        if value.is_empty() {
            *value = default;
        }
    }
}

fn listeners(config: &mut Config, env: &Env, report: &mut Report<'_>) {
    let listen = config.server.listen.take();
    config.server.listen =
        Some(listen.unwrap_or_else(|| OneOrMany::One(format!("0.0.0.0:{}", port(env, report)))));
    let admin = config.admin.listen.take();
    config.admin.listen =
        admin.or_else(|| Some(env.filled("ADMIN_LISTEN").unwrap_or(ADMIN_LISTEN).to_owned()));
}

/// `PROXY_PORT`, else `PORT`, else 8000.
fn port(env: &Env, report: &mut Report<'_>) -> u16 {
    let named = ["PROXY_PORT", "PORT"].into_iter().find_map(|name| Some((name, env.filled(name)?)));
    let Some((name, text)) = named else { return PORT };
    text.parse().unwrap_or_else(|_| {
        let hint = format!("write a number from 1 to 65535, such as {name}={PORT}");
        report.fault(&Path::section(name), "not a port number", hint);
        PORT
    })
}
