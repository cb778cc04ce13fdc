//! Checks of `server`, `admin` and `cors`: everything a client can connect to.

use super::values::{self, Listen};
use super::{note, wait, within};
use crate::config::fault::Path;
use crate::config::report::Report;
use crate::config::sections::Config;
use crate::units::OneOrMany;

/// The longest path a Unix socket can have, in bytes (`sun_path`, unix(7)).
const SOCKET_PATH: usize = 107;
/// Smaller limits would refuse any real request.
const LEAST_BODY: u64 = 1 << 10;

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    addresses(config, report);
    server(config, report);
    cors(config, report);
}

fn addresses(config: &Config, report: &mut Report<'_>) {
    let server = Path::section("server");
    let listen = server.key("listen");
    let texts = config.server.listen.as_ref().map_or(&[][..], OneOrMany::as_slice);
    if texts.is_empty() {
        report.fault(&listen, "the list is empty", "write an address such as 0.0.0.0:8000");
    }
    let mut seen: Vec<Listen> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let path = listen.index(index);
        let is_list = matches!(config.server.listen, Some(OneOrMany::Many(_)));
        let path = if is_list { &path } else { &listen };
        let Some(address) = note(Listen::parse(text), path, report) else { continue };
        if seen.iter().any(|other| other.collides(&address)) {
            report.fault(path, "the same address as another of the list", "remove one of the two");
        }
        seen.push(address);
    }
    let admin = Path::section("admin");
    let listen = admin.key("listen");
    let text = config.admin.listen.as_deref().unwrap_or_default();
    let Some(address) = note(Listen::parse(text), &listen, report) else { return };
    if seen.iter().any(|other| other.collides(&address)) {
        let hint = "give the admin plane a port of its own, such as 127.0.0.1:9090";
        report.fault(&listen, "the same address as `server.listen`", hint);
    }
}

fn server(config: &Config, report: &mut Report<'_>) {
    let (server, path) = (&config.server, Path::section("server"));
    within(server.threads as u64, (0, 1024), &path.key("threads"), report);
    if server.max_body.0 < LEAST_BODY {
        report.fault(&path.key("max_body"), "less than 1KiB", "write a size such as 100MiB");
    }
    wait(server.read_timeout, &path.key("read_timeout"), report);
    wait(server.keepalive_comment, &path.key("keepalive_comment"), report);
    if !server.drain.0.is_zero() {
        wait(server.drain, &path.key("drain"), report);
    }
    for (index, network) in server.trusted_proxies.iter().enumerate() {
        note(values::network(network), &path.key("trusted_proxies").index(index), report);
    }
    if let Some(socket) = &server.upgrade_sock
        && !(1..=SOCKET_PATH).contains(&socket.as_os_str().len())
    {
        let hint = "write a short path such as ./data/upgrade.sock";
        report.fault(&path.key("upgrade_sock"), "not 1 to 107 bytes long", hint);
    }
}

fn cors(config: &Config, report: &mut Report<'_>) {
    let (cors, path) = (&config.cors, Path::section("cors"));
    for (index, origin) in cors.allowed_origins.iter().enumerate() {
        note(values::origin(origin), &path.key("allowed_origins").index(index), report);
    }
    // Any page can send `null`, from a frame in a sandbox.
    let is_anybody = |origin: &String| origin == "*" || origin == "null";
    if cors.allow_credentials && cors.allowed_origins.iter().any(is_anybody) {
        let hint = "name the origins, or leave allow_credentials out";
        let problem = "with \"*\" or \"null\" every page of the web could act for a visitor";
        report.fault(&path.key("allow_credentials"), problem, hint);
    }
    if !cors.max_age.0.is_zero() {
        wait(cors.max_age, &path.key("max_age"), report);
    }
}
