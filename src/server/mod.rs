//! The process: listeners bound, services assembled, background work started, drained at the end.

mod background;
mod counting;
mod health;
mod listeners;
mod online;

use crate::admin::Admin;
use crate::cli::{self, BAD_CONFIG, OK, PORT_TAKEN};
use crate::config::sections::{Config, ServerConfig};
use crate::config::{self, Env, Loaded, Source, keys};
use crate::demo;
use crate::proxy::Shared;
use crate::proxy::edge::Edge;
use crate::secret::Secret;
use crate::snapshot::Current;
use crate::snapshot::reload::Reloader;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::delivery::Delivery;
use crate::telemetry::langfuse::Destination;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::units::OneOrMany;
use background::{Background, DrainOnSignal, Traces};
use counting::Counting;
pub use health::health;
use listeners::{Bound, Listening};
pub use online::check_online;
use pingora::apps::ServerApp;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::ALPN;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long the last log lines, and the last traces, may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long calls that were cut may take to say what became of them, unless a second signal hurries, and how
/// often that is looked at.
const LAST_CALLS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// `cirque run`: serves until told to stop; the exit code.
pub fn run(file: Option<PathBuf>) -> u8 {
    let env = Env::from_process();
    let source = cli::source(file, &env);
    let loaded = match config::load(&source, &env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            cli::complain(&faults.to_string());
            return BAD_CONFIG;
        }
    };
    if let Some(key) = &loaded.generated_key {
        cli::complain(&format!(
            "No caller key is configured (API_KEY), so here is one for this run:\n\n    {}\n",
            key.expose()
        ));
    }
    serve(loaded, source, None)
}

/// `cirque demo`: serves with the simulated provider; the exit code.
pub fn demo(file: Option<PathBuf>) -> u8 {
    let provider = match Bound::to("127.0.0.1:0") {
        Ok(bound) => bound,
        Err(problem) => {
            cli::complain(&problem);
            return PORT_TAKEN;
        }
    };
    let key = Env::from_process()
        .get("API_KEY")
        .filter(|key| !key.is_empty())
        .map_or_else(keys::new_key, |key| Secret::new(key.to_owned()));
    let env = Env::from_process();
    let source = Source::Demo { text: demo::config_yaml(provider.address, key.expose()), file };
    match config::load(&source, &env) {
        Ok(loaded) => serve(loaded, source, Some((provider, key))),
        Err(faults) => {
            cli::complain(&faults.to_string());
            BAD_CONFIG
        }
    }
}

fn serve(loaded: Loaded, source: Source, provider: Option<(Bound, Secret)>) -> u8 {
    log::init(&loaded.config.log);
    pingora::tls::install_default_crypto_provider();
    let config = loaded.config.clone();
    let generated_key = loaded.generated_key.clone();
    for warning in &loaded.warnings {
        tracing::warn!(warning, "configuration");
    }
    let current = match Current::new(loaded, SystemTime::now()) {
        Ok(current) => Arc::new(current),
        Err(problem) => {
            cli::complain(&problem);
            return BAD_CONFIG;
        }
    };
    let (data, admin) = match bind(&config) {
        Ok(bound) => bound,
        Err(problem) => {
            cli::complain(&problem);
            return PORT_TAKEN;
        }
    };
    let addresses: Vec<SocketAddr> = data.iter().map(|bound| bound.address).collect();
    let admin_address = admin.address;
    let Some(shared) = shared(&config, &current) else { return BAD_CONFIG };
    let reloader = Arc::new(Reloader::new(
        source,
        generated_key,
        Arc::clone(&current),
        Arc::clone(&shared.metrics),
        Arc::clone(&shared.delivery),
    ));
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(&config.server));
    let edge = Edge::new(shared.clone(), config.server.h2c, &server.configuration);
    let Ok(edge) = data_service(edge, data, &config.server) else {
        cli::complain("server.tls: the certificate or the key cannot be used");
        return BAD_CONFIG;
    };
    server.add_service(edge);
    let (metrics, limits) = (Arc::clone(&shared.metrics), Arc::clone(&shared.limits));
    let (delivery, reload) = (Arc::clone(&shared.delivery), Arc::clone(&reloader));
    let admin_app = Admin::new(Arc::clone(&current), metrics, limits, delivery, reload);
    server.add_service(service("admin", admin_app, vec![admin], Some(1)));
    let banner = provider.map(|(bound, key)| {
        let app = demo::Provider::new("demo");
        server.add_service(service("demo", app, vec![bound], Some(1)));
        demo::banner(&addresses, admin_address, key.expose())
    });
    server.add_service(Background::service(reloader));
    server.add_service(Traces::service(Arc::clone(&shared.delivery)));
    server.add_service(Counting::service(Arc::clone(&shared.limits)));
    announce(&addresses, admin_address, banner.as_deref());
    let is_hurried = Arc::new(AtomicBool::new(false));
    let delivery = Arc::clone(&shared.delivery);
    let drain = DrainOnSignal::new(current, delivery, Arc::clone(&is_hurried));
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    let is_hurried = is_hurried.load(Ordering::Acquire);
    end(&shared, if is_hurried { LAST_LINES } else { LAST_CALLS });
    OK
}

/// What is still to be written down is, once Pingora has ended.
fn end(shared: &Shared, patience: Duration) {
    wait_for_cut_calls(&shared.current, patience);
    shared.delivery.close(LAST_LINES);
    shared.limits.close();
    shared.access_log.flush(LAST_LINES);
}

/// Pingora lets go of its threads without waiting for them, while they still drop the tasks of the calls
/// that a drain cuts; each hands its record over as it is dropped, and large bodies are looked through first.
#[expect(clippy::disallowed_methods, reason = "the main thread: no worker is left to be blocked")]
fn wait_for_cut_calls(current: &Current, patience: Duration) {
    let deadline = Instant::now() + patience;
    while current.open() > 0 && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    let missing = current.open();
    if missing > 0 {
        tracing::error!(missing, "calls that were cut are neither in the access log nor traced");
    }
}

/// What requests share, ready before the first of them is served; `None`, and a complaint, where the
/// store cannot be used.
fn shared(config: &Config, current: &Arc<Current>) -> Option<Shared> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), revision());
    metrics.config_generation(1);
    let limits = counting::open(config).inspect_err(|problem| cli::complain(problem)).ok()?;
    let access_log = Arc::new(AccessLog::start(config.log.format));
    let delivery = Delivery::new(Arc::clone(&metrics));
    delivery.apply(&Destination::all(&config.langfuse, &config.telemetry));
    Some(Shared::new(Arc::clone(current), metrics, limits, access_log, delivery))
}

fn announce(data: &[SocketAddr], admin: SocketAddr, banner: Option<&str>) {
    for address in data {
        tracing::info!(plane = "data", %address, "listening");
    }
    tracing::info!(plane = "admin", address = %admin, "listening");
    if let Some(banner) = banner {
        cli::complain(banner);
    }
}

/// Binds every listener before anything starts: a taken port ends the process with a clear text and
/// no panic, and port 0 is known at once.
fn bind(config: &Config) -> Result<(Vec<Bound>, Bound), String> {
    let data = config.server.listen.as_ref().map(OneOrMany::as_slice).unwrap_or_default();
    let data = data.iter().map(|address| Bound::to(address)).collect::<Result<_, _>>()?;
    let admin = Bound::to(config.admin.listen.as_deref().unwrap_or("127.0.0.1:9090"))?;
    Ok((data, admin))
}

fn pingora_conf(server: &ServerConfig) -> ServerConf {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    ServerConf {
        threads: if server.threads == 0 { cores() } else { server.threads },
        // Draining is ours (`background`): by the time Pingora shuts down nobody is to be waited for.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn service<A: ServerApp + Send + Sync + 'static>(
    name: &str,
    app: A,
    bound: Vec<Bound>,
    threads: Option<usize>,
) -> Listening<A> {
    let mut service = Service::new(name.to_owned(), app);
    service.threads = threads;
    for listener in &bound {
        service.add_tcp(&listener.address.to_string());
    }
    Listening::new(service, bound)
}

fn data_service(
    edge: Edge,
    bound: Vec<Bound>,
    server: &ServerConfig,
) -> Result<Listening<Edge>, ()> {
    let Some(tls) = &server.tls else { return Ok(service("data", edge, bound, None)) };
    let mut service = Service::new("data".to_owned(), edge);
    let (cert, key) = (tls.cert.to_string_lossy(), tls.key.to_string_lossy());
    listeners::check_certificate(&tls.cert, &tls.key).map_err(|problem| {
        cli::complain(&problem);
    })?;
    for listener in &bound {
        let mut settings = TlsSettings::intermediate(&cert, &key).map_err(|_| ())?;
        settings.set_alpn(ALPN::H2H1);
        service.add_tls_with_settings(&listener.address.to_string(), None, settings);
    }
    Ok(Listening::new(service, bound))
}

/// The source revision, where the build was told of it.
fn revision() -> &'static str {
    option_env!("CIRQUE_REVISION").unwrap_or("unknown")
}
