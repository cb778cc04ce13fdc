//! Every configuration we show loads, and every broken one fails as recorded.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use cirque::config::{Config, Env, Loaded, Source, check_text, load, not_yet, schema};
use std::fs;
use std::path::{Path, PathBuf};

/// Set to write the recorded files anew; look at the difference before committing it.
const REWRITE: &str = "CIRQUE_REWRITE_GOLDEN";
const CANARY: &str = "sk-canary-7f3a";

fn env() -> Env {
    Env::new([
        ("API_KEY", "sk-cq-caller"),
        ("OPENROUTER_API_KEY", "sk-or-main"),
        ("LANGFUSE_PUBLIC_KEY", "pk-lf-1"),
        ("LANGFUSE_SECRET_KEY", "sk-lf-1"),
        ("REDIS_URL", "redis://127.0.0.1:6379"),
        ("CANARY", CANARY),
        ("CANARY_URL", "https://user:sk-canary-7f3a@example.com/v1"),
    ])
}

fn load_file(path: &Path) -> Loaded {
    load(&Source::File(path.to_owned()), &env()).unwrap_or_else(|faults| panic!("\n{faults}"))
}

/// Files below a folder with one of these extensions, in order; none where there is no folder.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path.to_string_lossy(), extensions));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn same_as_recorded(recorded: &Path, now: &str) -> Result<(), String> {
    if std::env::var_os(REWRITE).is_some() {
        fs::write(recorded, now).unwrap();
    }
    let before = fs::read_to_string(recorded).unwrap_or_default();
    if before == now {
        return Ok(());
    }
    let name = recorded.display();
    Err(format!("{name} differs; {REWRITE}=1 writes it anew.\nrecorded:\n{before}\nnow:\n{now}\n"))
}

#[test]
fn the_contract_loads_as_it_stands() {
    let config = load_file(Path::new("tests/golden/gateway.example.yaml")).config;
    assert_eq!(config.server.listen.unwrap().as_slice(), ["0.0.0.0:8000"]);
    let bases: Vec<_> = config.upstreams.iter().map(|u| u.base_url.as_deref().unwrap()).collect();
    let expected = [
        "https://openrouter.ai/api/v1",
        "https://eu.openrouter.ai/api/v1",
        "http://127.0.0.1:8001/v1",
    ];
    assert_eq!(bases, expected);
    let secret = |at: usize| config.upstreams.get(at).and_then(|u| u.api_key.as_ref());
    assert_eq!(secret(1).unwrap().expose(), "sk-or-main");
    assert!(config.langfuse.is_on());
}

#[test]
fn the_shown_configurations_load() {
    let shown = files("conf", &["yaml"]);
    assert!(shown.len() >= 2);
    for path in &shown {
        load_file(path);
    }
    assert!(not_yet(&load_file(Path::new("conf/gateway.yaml")).config).len() <= 1);
}

/// Sections of the full file that only say what is so anyway.
#[test]
fn the_full_configuration_tells_the_true_defaults() {
    let full = load_file(Path::new("conf/gateway.full.yaml")).config;
    let none = Config::default();
    assert_eq!(full.cors, none.cors);
    assert_eq!(full.limits, none.limits);
    assert_eq!(full.session, none.session);
    assert_eq!(full.store, none.store);
    assert_eq!(full.log, none.log);
    let server = cirque::config::sections::ServerConfig {
        listen: full.server.listen.clone(),
        ..none.server
    };
    assert_eq!(full.server, server);
    let [upstream] = full.upstreams.as_slice() else { panic!("one upstream") };
    let plain = cirque::upstream::config::UpstreamConfig::new(&upstream.name, upstream.provider);
    assert_eq!(upstream.timeouts, plain.timeouts);
    assert_eq!(upstream.health, plain.health);
    assert_eq!(upstream.breaker, plain.breaker);
    let public = upstream.provider.row().base_url;
    assert_eq!(upstream.base_url.as_deref(), public);
}

/// Every key of the schema must be in the full file, if only in a comment.
#[test]
fn the_full_configuration_names_every_setting() {
    let text = fs::read_to_string("conf/gateway.full.yaml").unwrap();
    let schema = schema();
    let mut parts: Vec<_> = schema.get("$defs").unwrap().as_object().unwrap().values().collect();
    parts.push(&schema);
    for part in parts {
        let settings = part.get("properties").and_then(|p| p.as_object()).into_iter().flatten();
        for (setting, _) in settings {
            assert!(text.contains(&format!("{setting}:")), "{setting} is not in the full file");
        }
    }
}

#[test]
fn the_committed_schema_is_the_real_one() {
    let now = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    same_as_recorded(Path::new("conf/gateway.schema.json"), &now).unwrap_or_else(|e| panic!("{e}"));
}

/// Blocks that begin with a line `# cirque`, to the end of their fence or indentation.
fn blocks(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_start = |line: &str| {
        let line = line.trim();
        line == "# cirque" || line.starts_with("# cirque:")
    };
    let starts = (0..lines.len()).filter(|at| lines.get(*at).is_some_and(|line| is_start(line)));
    let block = |start: usize| {
        let rest = lines.get(start..).unwrap_or_default();
        let indent = rest.first().map_or(0, |line| line.len() - line.trim_start().len());
        let inside = |line: &&&str| {
            line.trim().is_empty() || line.get(..indent).is_some_and(|i| i.trim().is_empty())
        };
        let inside = rest.iter().take_while(|line| !line.starts_with("```")).take_while(inside);
        inside.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
    };
    starts.map(block).collect()
}

#[test]
fn configurations_inside_other_files_load() {
    let mut hosts = files("deploy", &["yaml", "yml", "md", "service"]);
    hosts.extend(["README.md", "docs/OPERATIONS.md"].map(PathBuf::from));
    for host in hosts {
        let text = fs::read_to_string(&host).unwrap_or_default();
        for (nth, block) in blocks(&text).iter().enumerate() {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), block).unwrap();
            let loaded = load(&Source::File(file.path().to_owned()), &env());
            let name = host.display();
            assert!(loaded.is_ok(), "block {nth} of {name}:\n{}", loaded.err().unwrap());
        }
    }
}

#[test]
fn blocks_end_with_their_fence_or_indentation() {
    let text = "a\n```yaml\n# cirque\nx:\n  y: 1\n```\ndata:\n  f: |\n    # cirque: main\n    z: 1\n  g: 2\n";
    assert_eq!(blocks(text), ["# cirque\nx:\n  y: 1", "# cirque: main\nz: 1"]);
}

#[test]
fn broken_configurations_fail_as_recorded() {
    let cases = files("tests/golden/config_faults", &["yaml"]);
    assert!(cases.len() >= 20);
    let mut wrong = Vec::new();
    for case in cases {
        let faults = load(&Source::File(case.clone()), &env()).map(drop).expect_err("broken");
        let said = format!("{faults}\n");
        assert!(!said.contains(CANARY), "{}: a secret is echoed", case.display());
        wrong.extend(same_as_recorded(&case.with_extension("txt"), &said).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_unreadable_file_is_one_clear_fault() {
    let faults = load(&Source::File("tests/golden/none.yaml".into()), &env()).map(drop);
    let said = faults.unwrap_err().to_string();
    assert!(said.starts_with("tests/golden/none.yaml: cannot be read: No such file"), "{said}");
    assert!(load(&Source::File("tests".into()), &env()).is_err());
}

#[test]
fn text_alone_is_checked_without_variables_and_files() {
    assert!(check_text("upstreams: [{ name: a, base_url: \"http://a/v1\" }]").is_ok());
    let faults = check_text("upstreams: [{ name: a, base_url: \"${file:/etc/hostname}\" }]");
    assert!(faults.unwrap_err().to_string().contains("files cannot be read here"));
}
