//! Certificates and keys that the configuration names: they must be readable PEM before they are used.

use crate::config::bounded;
use crate::config::fault::Path;
use crate::config::report::Report;
use crate::config::sections::Config;
use crate::secret::KeyHash;
use std::path::{Path as FilePath, PathBuf};

/// In MiB. A system's whole bundle of authorities has a quarter of it.
const LONGEST: u32 = 1;

/// A PEM file that the configuration names.
pub(in crate::config) struct PemFile {
    pub(in crate::config) path: PathBuf,
    /// Of its bytes, so that a renewed certificate is a new configuration.
    pub(in crate::config) hash: KeyHash,
    /// Whether listeners use it, which read it once.
    pub(in crate::config) is_listeners: bool,
}

/// Reads every TLS file; what is wrong with one is a fault of the setting that names it.
pub(in crate::config) fn pem_files(config: &Config, report: &mut Report<'_>) -> Vec<PemFile> {
    let mut files = Vec::new();
    let mut read = |file: &FilePath, what: &str, path: &Path<'_>, is_listeners: bool| {
        let bytes = match contents(file, what) {
            Ok(bytes) => bytes,
            Err((problem, hint)) => {
                report.fault(path, problem, hint);
                Vec::new()
            }
        };
        files.push(PemFile { path: file.to_owned(), hash: KeyHash::of(&bytes), is_listeners });
    };
    if let Some(tls) = &config.server.tls {
        let server = Path::section("server");
        let path = server.key("tls");
        read(&tls.cert, "CERTIFICATE", &path.key("cert"), true);
        read(&tls.key, "PRIVATE KEY", &path.key("key"), true);
    }
    let upstreams = Path::section("upstreams");
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let authorities = upstream.tls.as_ref().and_then(|tls| tls.ca.as_ref());
        if let Some(ca) = authorities {
            read(ca, "CERTIFICATE", &upstreams.index(index).key("tls").key("ca"), false);
        }
    }
    files
}

/// The bytes of a PEM file with at least one block whose label ends in `what`.
fn contents(path: &FilePath, what: &str) -> Result<Vec<u8>, (String, String)> {
    let unreadable = |why: String| {
        let problem = format!("the file {} cannot be read: {why}", path.display());
        (problem, "write the path of a PEM file that the gateway's user may read".to_owned())
    };
    let bytes = bounded::read(path, LONGEST).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_block = |line: &str| {
        let label = line.trim().strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----"));
        label.is_some_and(|label| label.ends_with(what))
    };
    if !text.lines().any(is_block) {
        let problem = format!("the file {} holds no PEM block {what}", path.display());
        return Err((problem, format!("it must hold -----BEGIN {what}-----")));
    }
    Ok(bytes)
}
