//! What loading promises, seen from outside: sources, defaults, references, faults, speed.

use super::{Config, Env, Faults, Loaded, Source, check_text, load, not_yet, redacted};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ONE_UPSTREAM: &str = "upstreams: [{ name: a, base_url: \"http://127.0.0.1/v1\" }]\n";

/// Loads a file with this text.
fn load_text(text: &str, env: &Env) -> Result<Loaded, Faults> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    load(&Source::File(file.path().to_owned()), env)
}

fn loaded(text: &str, env: &Env) -> Loaded {
    load_text(text, env).unwrap_or_else(|faults| panic!("{faults}"))
}

fn said(result: Result<Loaded, Faults>) -> String {
    result.err().map(|faults| faults.to_string()).unwrap_or_default()
}

#[test]
fn one_variable_is_a_whole_configuration() {
    let env = Env::new([("OPENROUTER_API_KEY", "sk-or-1")]);
    let Loaded { config, watched, generated_key, .. } = load(&Source::Environment, &env).unwrap();
    assert_eq!(config.server.listen.unwrap().as_slice(), ["0.0.0.0:8000"]);
    assert_eq!(config.admin.listen.unwrap(), "127.0.0.1:9090");
    assert_eq!(config.upstreams[0].base_url.as_deref(), Some("https://openrouter.ai/api/v1"));
    assert_eq!(config.upstreams[0].api_key.as_ref().unwrap().expose(), "sk-or-1");
    assert_eq!(config.routes[0].upstreams, ["openrouter"]);
    assert_eq!(config.keys[0].secret, generated_key);
    assert!(generated_key.unwrap().expose().starts_with("sk-cq-"));
    assert_eq!(watched, Vec::<PathBuf>::new());
}

#[test]
fn every_variable_of_the_environment_counts() {
    let env = Env::new([
        ("OPENROUTER_API_KEY", "sk-or-1\n"),
        ("OPENROUTER_API_BASE", "http://127.0.0.1:9/v1"),
        ("PROXY_PORT", "8001"),
        ("PORT", "8002"),
        ("ADMIN_LISTEN", "127.0.0.1:9091"),
        ("ALLOWED_ORIGINS", "https://a.example, https://*.b.example,"),
        ("API_KEY", "caller"),
        ("HTTP_REFERER", "https://example.com"),
        ("X_TITLE", "Example"),
        ("LANGFUSE_PUBLIC_KEY", "pk"),
        ("LANGFUSE_SECRET_KEY", "sk"),
        ("LANGFUSE_HOST", "http://langfuse:3000"),
    ]);
    let Loaded { config, generated_key, .. } = load(&Source::Environment, &env).unwrap();
    assert_eq!(config.server.listen.unwrap().as_slice(), ["0.0.0.0:8001"]);
    assert_eq!(config.admin.listen.unwrap(), "127.0.0.1:9091");
    assert_eq!(config.cors.allowed_origins, ["https://a.example", "https://*.b.example"]);
    let [key] = config.keys.as_slice() else { panic!("one key") };
    assert_eq!((key.name.as_str(), key.secret.as_ref().unwrap().expose()), ("default", "caller"));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.base_url.as_deref(), Some("http://127.0.0.1:9/v1"));
    assert_eq!(upstream.api_key.as_ref().unwrap().expose(), "sk-or-1");
    assert_eq!(upstream.headers["HTTP-Referer"], "https://example.com");
    assert_eq!(upstream.headers["X-Title"], "Example");
    assert!(config.langfuse.is_on());
    assert_eq!(config.langfuse.host, "http://langfuse:3000");
    assert_eq!(generated_key, None);
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    let env = Env::new([
        ("OPENROUTER_API_BASE", "openrouter.ai"),
        ("PROXY_PORT", "70000"),
        ("API_KEY", "two words"),
        ("ADMIN_LISTEN", "9090"),
        ("ALLOWED_ORIGINS", "https://a.example,b"),
        ("LANGFUSE_HOST", "langfuse"),
    ]);
    let said = said(load(&Source::Environment, &env));
    for variable in [
        "OPENROUTER_API_KEY",
        "OPENROUTER_API_BASE",
        "PROXY_PORT",
        "API_KEY",
        "ADMIN_LISTEN",
        "ALLOWED_ORIGINS",
        "LANGFUSE_HOST",
    ] {
        assert!(said.contains(&format!("environment: {variable}: ")), "{variable} in\n{said}");
    }
    assert!(said.contains("cirque demo") && said.contains("conf/gateway.full.yaml"), "{said}");
    assert!(!said.contains("two words"));
}

#[test]
fn a_file_takes_what_it_leaves_out_from_the_environment() {
    let env = Env::new([("PORT", "8003"), ("API_KEY", "caller")]);
    let config = loaded(ONE_UPSTREAM, &env).config;
    assert_eq!(config.server.listen.unwrap().as_slice(), ["0.0.0.0:8003"]);
    assert_eq!(config.keys[0].name, "default");
    assert_eq!(config.routes[0].models, ["*"]);
    let named = format!("server: {{ listen: \"127.0.0.1:1\" }}\n{ONE_UPSTREAM}");
    let env = Env::new([("PORT", "not looked at")]);
    assert_eq!(loaded(&named, &env).config.server.listen.unwrap().as_slice(), ["127.0.0.1:1"]);
    let wrong = said(load_text(ONE_UPSTREAM, &env));
    assert!(wrong.contains(" PORT: not a port number"), "{wrong}");
}

#[test]
fn expanded_values_take_the_type_their_setting_wants() {
    let env = Env::new([("THREADS", "4"), ("H2C", "false"), ("SIZE", "2MiB"), ("SHARE", "0.5")]);
    let text = format!(
        "server: {{ threads: \"${{THREADS}}\", h2c: \"${{H2C}}\", max_body: \"${{SIZE}}\" }}\n\
         langfuse: {{ sample_rate: \"${{SHARE}}\", public_key: \"${{UNSET}}\" }}\n{ONE_UPSTREAM}"
    );
    let config = loaded(&text, &env).config;
    assert_eq!((config.server.threads, config.server.h2c), (4, false));
    assert_eq!(config.server.max_body.0, 2 << 20);
    assert!((config.langfuse.sample_rate - 0.5).abs() < f64::EPSILON);
    assert!(!config.langfuse.is_on());
}

#[test]
fn a_value_that_expands_is_never_read_as_yaml() {
    let env = Env::new([("K", "a: [b, *c] # ${PATH} \"x\"")]);
    let text = format!(
        "# ${{NOT_LOOKED_AT}}\n{ONE_UPSTREAM}keys: [{{ name: n, secret: k, metadata: {{ m: \"${{K}}\" }} }}]"
    );
    let config = loaded(&text, &env).config;
    assert_eq!(config.keys[0].metadata["m"], "a: [b, *c] # ${PATH} \"x\"");
}

#[test]
fn text_keeps_every_digit() {
    let text =
        format!("{ONE_UPSTREAM}keys: [{{ name: 007, secret: 00123456789012345678901234567890 }}]");
    let config = loaded(&text, &Env::default()).config;
    assert_eq!(config.keys[0].name, "007");
    assert_eq!(
        config.keys[0].secret.as_ref().unwrap().expose(),
        "00123456789012345678901234567890"
    );
}

#[test]
fn an_alias_shares_a_value_and_an_empty_section_is_a_default_one() {
    let text = "server:\ncors:\nkeys:\nupstreams:\n- name: a\n  base_url: http://a/v1\n  timeouts: &slow { idle: 10m }\n- { name: b, base_url: http://b/v1, timeouts: *slow }\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
        let config = check_text(&text).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(config.upstreams[1].timeouts.idle.to_string(), "10m");
        assert_eq!(config.cors, Config::default().cors);
    }
}

#[test]
fn the_file_its_secrets_and_its_certificates_are_watched_and_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("key"), "sk-1\n").unwrap();
    fs::write(at("ca.pem"), "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
        .unwrap();
    let text = format!(
        "upstreams: [{{ name: a, base_url: \"https://a/v1\", api_key: \"${{file:{0}/key}}\", tls: {{ ca: \"{0}/ca.pem\" }} }}]",
        folder.path().display()
    );
    fs::write(at("c.yaml"), text).unwrap();
    let source = Source::File(at("c.yaml"));
    let hash = || load(&source, &Env::default()).unwrap_or_else(|f| panic!("{f}")).hash;
    let first = load(&source, &Env::default()).unwrap();
    assert_eq!(first.watched, [at("c.yaml"), at("ca.pem"), at("key")]);
    assert_eq!((first.hash.len(), &first.hash), (16, &hash()));
    fs::write(at("key"), "sk-2").unwrap();
    let second = hash();
    assert_ne!(second, first.hash);
    fs::write(at("ca.pem"), "-----BEGIN CERTIFICATE-----\nAB==\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert_ne!(hash(), second);
}

#[test]
fn a_hash_ignores_comments_and_spelling_and_sees_every_secret() {
    let hash = |text: &str| loaded(text, &Env::default()).hash;
    let text = format!("{ONE_UPSTREAM}keys: [{{ name: n, secret: k }}]");
    assert_eq!(
        hash(&text),
        hash(&format!("# comment\n{}", text.replace("secret: k", "secret: \"k\"")))
    );
    assert_ne!(hash(&text), hash(&text.replace("secret: k", "secret: l")));
    assert_eq!(hash(ONE_UPSTREAM), hash(ONE_UPSTREAM), "a generated key is not part of it");
}

#[test]
fn a_reload_keeps_the_generated_key() {
    let first = loaded(ONE_UPSTREAM, &Env::default());
    let again = loaded(ONE_UPSTREAM, &Env::default());
    assert_ne!(first.generated_key, again.generated_key);
    let again = again.keep_generated_key(first.generated_key.as_ref());
    assert_eq!(again.generated_key, first.generated_key);
    assert_eq!(again.config.keys, first.config.keys);
    let text = format!("{ONE_UPSTREAM}keys: [{{ name: n, secret: k }}]");
    let named = loaded(&text, &Env::default()).keep_generated_key(first.generated_key.as_ref());
    assert_eq!(named.config.keys[0].name, "n");
}

#[test]
fn empty_headers_are_left_out() {
    let text =
        "upstreams: [{ name: a, provider: openai, headers: { X-A: \"${UNSET:-}\", X-B: b } }]";
    let headers = check_text(text).unwrap().upstreams.remove(0).headers;
    assert_eq!(headers.into_keys().collect::<Vec<_>>(), ["X-B"]);
}

#[test]
fn what_anybody_may_see_holds_no_secret() {
    let text = "keys: [{ name: n, secret: sk-canary, secrets: [sk-canary-2] }]\n\
                upstreams: [{ name: a, provider: openai, api_key: sk-canary-3, headers: { X-Key: sk-canary-4 } }]\n\
                store: { kind: redis, url: \"redis://:sk-canary-5@a\" }\n\
                langfuse: { public_key: sk-canary-6, secret_key: sk-canary-7 }\n\
                telemetry: { otlp: { endpoint: \"http://a\", headers: { X-B: sk-canary-8 } } }";
    let loaded = loaded(text, &Env::default());
    let shown = format!("{} {:?}", redacted(&loaded.config), loaded.warnings);
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("X-Key"));
}

#[test]
fn settings_without_machinery_are_named_only_where_they_are_used() {
    let none = Vec::<String>::new();
    assert_eq!(not_yet(&check_text(ONE_UPSTREAM).unwrap()), none);
    let off = ONE_UPSTREAM.replace(" }]", ", health: off, on_disconnect: drain }]");
    assert_eq!(not_yet(&check_text(&off).unwrap()), none);
    let used = format!("server: {{ upgrade_sock: ./up.sock }}\n{ONE_UPSTREAM}");
    let named = not_yet(&check_text(&used).unwrap());
    let paths: Vec<&str> = named.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(paths, ["server.upgrade_sock"]);
}

#[test]
fn what_is_allowed_but_odd_is_told() {
    let text = "admin: { listen: \"0.0.0.0:9090\" }\n\
                server: { trusted_proxies: [\"0.0.0.0/0\"] }\n\
                keys: [{ name: old, secret: k, expires: \"2001-01-01T00:00:00Z\" }]\n\
                upstreams: [{ name: a, base_url: \"http://api.example.com/v1\", api_key: k }, { name: b, provider: openai, tls: { verify: false } }]\n\
                routes: [{ models: [\"*\"], upstreams: [a] }, { models: [x], upstreams: [a] }]\n\
                langfuse: { public_key: a }";
    let warnings = loaded(text, &Env::default()).warnings.join("\n");
    for setting in [
        "admin.listen",
        "server.trusted_proxies",
        "langfuse",
        "keys[0]",
        "upstreams[0].base_url",
        "upstreams[1]: no route",
        "upstreams[1].tls.verify",
        "routes[1]",
    ] {
        assert!(warnings.contains(setting), "{setting} in\n{warnings}");
    }
    assert_eq!(loaded(ONE_UPSTREAM, &Env::default()).warnings, Vec::<String>::new());
}

/// Bounds are for an unoptimised build on a busy machine: an optimised one is far below.
#[test]
fn a_hundred_thousand_keys_load_in_linear_time() {
    let mut text = ONE_UPSTREAM.to_owned() + "keys:\n";
    for n in 0..100_000 {
        writeln!(text, "  - {{ name: k{n}, secret: \"sk-{n}\", models: [\"openai/*\"] }}").unwrap();
    }
    let start = Instant::now();
    assert_eq!(check_text(&text).unwrap().keys.len(), 100_000);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let start = Instant::now();
    let faults = check_text(&text.replace("models:", "model:")).unwrap_err();
    assert_eq!(faults.list.len(), 100);
    assert!(faults.to_string().ends_with("only the first 100 faults are shown"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Pieces that YAML and references are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "upstreams:",
        "keys:",
        "server:",
        "routes:",
        "- ",
        "  ",
        "\n",
        "name: ",
        "a",
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        "\"",
        "'",
        "&x ",
        "*x",
        "<<: ",
        "!t ",
        "? ",
        "| ",
        "> ",
        "${",
        "${A:-",
        "}",
        "$${",
        "${file:",
        "\t",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "~",
        "null",
        "5s",
        "0x1",
        "é",
        "\u{feff}",
        "\r",
        "base_url: http://a/v1\n",
        "health: ",
        "off",
        "sha256: ",
        "prices: ",
        "langfuse: ",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_or_takes_long(text in prop_oneof![any::<String>(), pieces()]) {
        let start = Instant::now();
        let result = check_text(&text);
        prop_assert!(start.elapsed() < Duration::from_secs(2));
        if let Err(faults) = result {
            prop_assert!(!faults.list.is_empty() && !faults.to_string().is_empty());
        }
    }
}

#[test]
fn texts_made_to_be_slow_are_refused_quickly() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let anchors = (0..5_000).fold("a0: &a0 x\n".to_owned(), |mut text, n| {
        writeln!(text, "a{}: &a{} [*a{n}, *a{n}]", n + 1, n + 1).unwrap();
        text
    });
    for text in [
        deep("[", "]"),
        deep("{a: ", "}"),
        deep("- ", ""),
        deep("${A:-", "}"),
        format!("a: \"{}\"", deep("${A:-", "}")),
        "&a ".repeat(100_000),
        "? ".repeat(100_000),
        format!("a: {}", "x".repeat(1 << 20)),
        format!("session: {{ response_format_pattern: \"{}\" }}", "(a{1000}){1000}".repeat(50)),
        format!("x{}: 1", "y".repeat(1_000)).repeat(1_000),
        anchors,
    ] {
        let start = Instant::now();
        assert!(check_text(&text).is_err());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {:.40}", start.elapsed(), text);
    }
}
