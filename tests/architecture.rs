//! Fails the build when the module map in docs/ARCHITECTURE.md stops being true.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "a test that cannot read the tree must fail"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Bottom first. A module may import only from rows above its own; modules in one row are strangers.
const LAYERS: &[&[&str]] = &[
    &["error", "folder", "glob", "ids", "locked", "secret", "units"],
    &["protocol"],
    &["telemetry", "store"],
    &["auth", "cors", "limits", "routing", "session", "upstream", "catalogue"],
    &["config"],
    &["snapshot"],
    &["proxy", "admin", "demo"],
    &["cli"],
    &["server"],
];
/// `limits/throttle.rs` takes a sketch of counters from `pingora-limits`, which knows no proxy.
const MAY_USE_PINGORA: &[&str] =
    &["proxy", "admin", "demo", "server", "upstream/peer.rs", "limits/throttle.rs"];
const MAX_LINES: usize = 400;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Top-level modules named by `crate::…` in the part of a file above its inline tests.
fn imports(code: &str) -> BTreeSet<String> {
    let ident =
        |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            out.insert(ident(after));
            continue;
        };
        let (mut depth, mut at_start) = (0_usize, true);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                c if at_start && !c.is_whitespace() => {
                    out.insert(ident(&list[i..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    out
}

#[test]
fn modules_depend_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    for file in &files {
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let module = name.split('/').next().unwrap().trim_end_matches(".rs");
        if !text.starts_with("//! ") {
            faults.push(format!("{name}: no opening //! sentence"));
        }
        if code.lines().count() > MAX_LINES {
            faults.push(format!("{name}: over {MAX_LINES} lines"));
        }
        let pingora =
            code.lines().any(|l| l.contains("pingora") && !l.trim_start().starts_with("//"));
        if pingora && !MAY_USE_PINGORA.iter().any(|p| name.starts_with(p)) {
            faults.push(format!("{name}: may not use pingora"));
        }
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let Some(here) = rank(module) else {
            faults.push(format!("{name}: `{module}` has no layer"));
            continue;
        };
        for used in imports(code).into_iter().filter(|u| u != module) {
            match rank(&used) {
                Some(there) if there < here => {}
                Some(_) => faults.push(format!("{name}: {module} may not import {used}")),
                None => faults.push(format!("{name}: unknown module {used}")),
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
