//! From a file or the environment to one checked value, or to all that is wrong with it.

use super::caution::cautions;
use super::env::{Env, Source};
use super::expand::Expander;
use super::fault::{Fault, Faults, Path};
use super::keys::{KeyConfig, new_key};
use super::report::{Report, Sections};
use super::sections::Config;
use super::validate::{PemFile, pem_files, validate};
use super::{bounded, defaults, environment, tree};
use crate::secret::{KeyHash, Secret};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use time::OffsetDateTime;

/// In MiB. 100,000 callers need a quarter of it; more is not a configuration.
const LONGEST_FILE: u32 = 64;

/// A configuration without faults.
pub struct Loaded {
    /// The configuration with every default filled in: `server.listen`, `admin.listen`, every
    /// `base_url`, at least one route and at least one key are there.
    pub config: Config,
    /// 16 hexadecimal digits of a SHA-256 over all that takes effect, secrets and TLS files
    /// included; a generated key is not part of it.
    pub hash: String,
    /// The file itself and every file it refers to, in order.
    pub watched: Vec<PathBuf>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    /// The random key of a gateway for which nobody configured one; print it once.
    pub generated_key: Option<Secret>,
    /// Whether nobody stands under `keys`, so that its one key comes from `API_KEY` or is made up.
    pub is_keyless: bool,
    /// Hashes of the files that `server.tls` names.
    pub listener_files: Vec<KeyHash>,
}

impl fmt::Debug for Loaded {
    /// Headers of upstreams may hold credentials: the hash tells configurations apart as well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Loaded {
    /// Keeps the key that was generated at start when the configuration is loaded again, so that a
    /// reload does not lock the caller out.
    #[must_use]
    pub fn keep_generated_key(mut self, earlier: Option<&Secret>) -> Self {
        if let (Some(_), Some(earlier)) = (&self.generated_key, earlier) {
            self.config.keys = vec![KeyConfig::with_secret("default", earlier.clone())];
            self.generated_key = Some(earlier.clone());
        }
        self
    }
}

/// Loads and checks a configuration.
///
/// Reads the file, the files it refers to and nothing else; variables come from `env` alone.
///
/// # Errors
/// All faults at once; only a file that cannot be read or is not YAML stops at its first.
pub fn load(source: &Source, env: &Env) -> Result<Loaded, Faults> {
    match source {
        Source::File(path) => {
            read_and_check(path, env).map(|(checked, watched)| checked.into_loaded(watched))
        }
        Source::Demo { text, file } => {
            let demo = check_file("demo", text, env, Some(&mut BTreeSet::new()))?;
            let Some(path) = file else { return Ok(demo.into_loaded(Vec::new())) };
            let (mut checked, watched) = read_and_check(path, env)?;
            let Config { keys, upstreams, routes, .. } = demo.config;
            checked.config.upstreams = upstreams;
            checked.config.routes = routes;
            for key in keys {
                add_beside(&mut checked.config.keys, key);
            }
            Ok(checked.into_loaded(watched))
        }
        Source::Environment => {
            check_environment(env).map(|checked| checked.into_loaded(Vec::new()))
        }
    }
}

/// Adds the demo's key to those of a file: under another name where its own is taken, and not at all
/// where the same secret is there already, with limits of its own.
fn add_beside(keys: &mut Vec<KeyConfig>, mut key: KeyConfig) {
    if key.hashes().any(|hash| keys.iter().any(|other| other.hashes().any(|one| one == hash))) {
        return;
    }
    let name = key.name.clone();
    let is_taken = |name: &str| keys.iter().any(|other| other.name == name);
    let mut names = (2..).map(|number| format!("{name}-{number}"));
    while is_taken(&key.name) {
        key.name = names.next().unwrap_or_default();
    }
    keys.push(key);
}

/// Checks a file; with the file itself and every file it refers to.
fn read_and_check(path: &PathBuf, env: &Env) -> Result<(Checked, Vec<PathBuf>), Faults> {
    let name = path.display().to_string();
    let text = read_file(path).map_err(|faults| *faults)?;
    let mut watched = BTreeSet::new();
    let checked = check_file(&name, &text, env, Some(&mut watched))?;
    watched.remove(path);
    Ok((checked, std::iter::once(path.clone()).chain(watched).collect()))
}

/// What can be read of a configuration, whatever is wrong with it; the defaults for the rest.
pub fn sketch(source: &Source, env: &Env) -> Config {
    let root = match source {
        Source::File(path) => {
            let text = read_file(path).unwrap_or_default();
            tree::parse(&text, &mut Vec::new()).ok()
        }
        Source::Demo { .. } | Source::Environment => None,
    };
    let mut expander = Expander::new(env, true);
    let root = root.map(|mut root| {
        expander.expand(&mut root);
        root
    });
    let mut report =
        Report::new(root.as_ref(), Vec::new(), std::mem::take(&mut expander.unexpanded));
    let mut config = match &root {
        Some(root) => sections(root, &mut report),
        None => environment::read(env),
    };
    defaults::fill(&mut config, env, &mut report);
    config
}

/// Reads and checks a file's text without a world around it: no variable is set, no file is read.
///
/// # Errors
/// All faults at once.
pub fn check_text(text: &str) -> Result<Config, Faults> {
    check_file("text", text, &Env::default(), None).map(|checked| checked.config)
}

/// A configuration without faults, and the TLS files it names.
struct Checked {
    config: Config,
    files: Vec<PemFile>,
    is_keyless: bool,
}

fn read_file(path: &std::path::Path) -> Result<String, Box<Faults>> {
    let name = path.display().to_string();
    let unreadable = |why: String| {
        let hint =
            "name a file with -c or CIRQUE_CONFIG; conf/gateway.full.yaml shows every setting";
        Box::new(Faults::one(&name, format!("cannot be read: {why}"), Some(hint.into())))
    };
    let bytes = bounded::read(path, LONGEST_FILE).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        let at = tree::end_of(&String::from_utf8_lossy(before));
        let hint = "save the file as UTF-8; is it a text file at all?";
        let fault = Fault::at(at, "", "not UTF-8 text", hint);
        Box::new(Faults::new(&name, vec![fault]))
    })
}

/// Checks a file's text; `watched` takes the files it refers to, `None` forbids reading any.
fn check_file(
    name: &str,
    text: &str,
    env: &Env,
    watched: Option<&mut BTreeSet<PathBuf>>,
) -> Result<Checked, Faults> {
    let mut faults = Vec::new();
    let mut root =
        tree::parse(text, &mut faults).map_err(|fault| Faults::new(name, vec![fault]))?;
    if matches!(&root.value, tree::Value::Text { .. } | tree::Value::List(_)) {
        let hint = "begin with a section, such as `upstreams:`";
        let fault = Fault::at(root.at, "", "not a configuration: it has no sections", hint);
        return Err(Faults::new(name, vec![fault]));
    }
    let mut expander = Expander::new(env, watched.is_some());
    expander.expand(&mut root);
    faults.append(&mut expander.faults);
    let mut report = Report::new(Some(&root), faults, std::mem::take(&mut expander.unexpanded));
    let mut config = sections(&root, &mut report);
    let is_keyless = config.keys.is_empty();
    let may_read = watched.is_some();
    let files = complete(&mut config, env, may_read, &mut report);
    let faults = report.into_faults();
    if !faults.is_empty() {
        return Err(Faults::new(name, faults));
    }
    if let Some(watched) = watched {
        watched.append(&mut expander.watched);
        watched.extend(files.iter().map(|file| file.path.clone()));
    }
    Ok(Checked { config, files, is_keyless })
}

fn check_environment(env: &Env) -> Result<Checked, Faults> {
    let faults = environment::missing_key(env).into_iter().collect();
    let mut report = Report::new(None, faults, BTreeSet::new());
    let mut config = environment::read(env);
    let files = complete(&mut config, env, true, &mut report);
    let faults: Vec<Fault> =
        report.into_faults().into_iter().map(environment::name_variable).collect();
    if !faults.is_empty() {
        return Err(Faults::new("environment", faults));
    }
    Ok(Checked { config, files, is_keyless: true })
}

fn sections<'t>(root: &'t tree::Node, report: &mut Report<'t>) -> Config {
    let mut sections = Sections::new(root, report);
    let config = Config {
        server: sections.one("server"),
        admin: sections.one("admin"),
        cors: sections.one("cors"),
        keys: sections.list("keys"),
        upstreams: sections.list("upstreams"),
        routes: sections.list("routes"),
        prices: sections.one("prices"),
        limits: sections.one("limits"),
        session: sections.one("session"),
        store: sections.one("store"),
        langfuse: sections.one("langfuse"),
        telemetry: sections.one("telemetry"),
        log: sections.one("log"),
    };
    sections.finish();
    config
}

/// Fills in the defaults and makes every check.
fn complete(
    config: &mut Config,
    env: &Env,
    may_read: bool,
    report: &mut Report<'_>,
) -> Vec<PemFile> {
    if let Some(why) = &env.broken {
        let hint = "write one NAME=value a line; put values with spaces in quotes";
        report.fault(&Path::section(".env"), format!("the file .env {why}"), hint);
    }
    defaults::fill(config, env, report);
    validate(config, report);
    if may_read { pem_files(config, report) } else { Vec::new() }
}

impl Checked {
    fn into_loaded(self, watched: Vec<PathBuf>) -> Loaded {
        let Self { mut config, files, is_keyless } = self;
        let listener_files = files.iter().filter(|file| file.is_listeners).map(|file| file.hash);
        let listener_files = listener_files.collect();
        let hash = fingerprint(&config, &files);
        let warnings = cautions(&config, OffsetDateTime::now_utc());
        let generated_key = config.keys.is_empty().then(new_key);
        let key = generated_key.iter().map(|key| KeyConfig::with_secret("default", key.clone()));
        config.keys.extend(key);
        Loaded { config, hash, watched, warnings, generated_key, is_keyless, listener_files }
    }
}

/// Hashes what takes effect. Secrets go in as hashes, each with its place by its order.
fn fingerprint(config: &Config, files: &[PemFile]) -> String {
    let mut sha = Sha256::new();
    sha.update(serde_json::to_vec(config).unwrap_or_default());
    let mut add = |hash: KeyHash| sha.update(hash.to_hex());
    for key in &config.keys {
        key.hashes().for_each(&mut add);
    }
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.api_key.as_ref());
    let langfuse = [&config.langfuse.public_key, &config.langfuse.secret_key];
    let otlp = config.telemetry.otlp.as_slice().iter().flat_map(|otlp| otlp.headers.values());
    for secret in upstreams.chain(&config.store.url).chain(langfuse).chain(otlp) {
        add(KeyHash::of(secret.expose().as_bytes()));
    }
    for file in files {
        add(file.hash);
    }
    format!("{:x}", sha.finalize()).chars().take(16).collect()
}
