//! The command line: what a person types, what it prints and how it exits.

use crate::harness::{
    Config, Gateway, KEY, Origin, Request, UPSTREAM_KEY, assert_openai_error, chat, cirque,
    eventually,
};
use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const USAGE: i32 = 64;
const PORT_TAKEN: i32 = 69;
const BAD_CONFIG: i32 = 78;

const FREE: [(&str, &str); 2] = [("PROXY_PORT", "0"), ("ADMIN_LISTEN", "127.0.0.1:0")];

fn good() -> String {
    Config::new().upstream("main", "http://127.0.0.1:1/v1", "").text()
}

#[tokio::test]
async fn check_accepts_a_good_file() {
    let checked = cirque(&["check", "-c", "gateway.yaml"], &[], Some(&good())).await;
    assert_eq!(checked.code, 0, "{}", checked.output);
}

#[tokio::test]
async fn check_tells_all_faults_at_once_with_their_places_and_hints() {
    let file = "server:\n  listn: \"127.0.0.1:0\"\n  read_timeout: soon\nkeys:\n  - name: a\n    \
                secret: \"${NOT_SET_ANYWHERE}\"\nupstreams:\n  - name: main\n    base_url: \"not a url\"\n\
                routes:\n  - models: [\"*\"]\n    upstreams: [mian]\n";
    let checked = cirque(&["check", "-c", "gateway.yaml"], &[], Some(file)).await;
    assert_eq!(checked.code, BAD_CONFIG, "{}", checked.output);
    let place = Regex::new(r"gateway\.yaml:(\d+):(\d+)").unwrap();
    let lines: Vec<u32> =
        place.captures_iter(&checked.output).map(|found| found[1].parse().unwrap()).collect();
    for (line, word) in
        [(2, "listn"), (3, "read_timeout"), (6, "NOT_SET_ANYWHERE"), (9, "base_url"), (12, "mian")]
    {
        assert!(lines.contains(&line), "no fault at line {line}: {}", checked.output);
        assert!(checked.output.contains(word), "{word} is not named: {}", checked.output);
    }
    for hint in ["listen", "main"] {
        assert!(checked.output.contains("did you mean"), "{}", checked.output);
        assert!(checked.output.contains(hint), "{}", checked.output);
    }
}

#[tokio::test]
async fn check_never_shows_a_secret() {
    let file = format!("{}\nextra: 1\n", good());
    let checked = cirque(&["check", "-c", "gateway.yaml"], &[], Some(&file)).await;
    assert_eq!(checked.code, BAD_CONFIG);
    for key in [KEY, UPSTREAM_KEY] {
        assert!(!checked.output.contains(key), "{}", checked.output);
    }
}

#[tokio::test]
async fn duplicates_syntax_faults_and_missing_files_are_faults_too() {
    let twice = Config::new().key("name: tester, secret: other").text();
    for file in [twice.as_str(), "server: [", "- 1", "server:\n  threads: many", "a: &a [*a]"] {
        let checked = cirque(&["check", "-c", "gateway.yaml"], &[], Some(file)).await;
        assert_eq!(checked.code, BAD_CONFIG, "{file}: {}", checked.output);
    }
    let missing = cirque(&["check", "-c", "nowhere.yaml"], &[], None).await;
    assert_eq!(missing.code, BAD_CONFIG, "{}", missing.output);
    assert!(missing.output.contains("nowhere.yaml"), "{}", missing.output);
}

#[tokio::test]
async fn run_refuses_what_check_refuses() {
    let file = "server:\n  listn: x\n";
    let run = cirque(&["run", "-c", "gateway.yaml"], &[], Some(file)).await;
    assert_eq!(run.code, BAD_CONFIG, "{}", run.output);
    assert!(run.output.contains("gateway.yaml:2:"), "{}", run.output);
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_fault() {
    for args in [&["--nonsense"][..], &["nonsense"], &["run", "--nonsense"], &["keys"]] {
        let run = cirque(args, &[], None).await;
        assert_eq!(run.code, USAGE, "{args:?}: {}", run.output);
    }
    for args in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let run = cirque(args, &[], None).await;
        assert_eq!(run.code, 0, "{args:?}: {}", run.output);
        assert!(run.stdout.to_lowercase().contains("cirque"), "{args:?}: {}", run.stdout);
    }
}

#[tokio::test]
async fn a_taken_port_has_its_own_exit_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let base = || Config::new().upstream("main", "http://127.0.0.1:1/v1", "");
    for config in [base().listen(&address), base().admin(&address)] {
        let run = cirque(&["run", "-c", "gateway.yaml"], &[], Some(&config.text())).await;
        assert_eq!(run.code, PORT_TAKEN, "{}", run.output);
        assert!(run.output.contains(&address), "{}", run.output);
    }
}

#[tokio::test]
async fn a_health_check_tells_the_gateway_that_runs_not_the_file_that_it_refused() {
    let (_origin, gateway) = crate::harness::serving().await;
    let data = gateway.data.to_string();
    let faulty = good().replace("127.0.0.1:0", &data) + "\nnonsense: true\n";
    let port = gateway.data.port().to_string();
    for (file, env) in [(faulty.as_str(), vec![]), ("a: [", vec![("PORT", port.as_str())])] {
        let well = cirque(&["health", "-c", "gateway.yaml"], &env, Some(file)).await;
        assert_eq!(well.code, 0, "{}", well.output);
    }
    let well = cirque(&["health", "--address", &data], &[], None).await;
    assert_eq!(well.code, 0, "{}", well.output);
    gateway.process.kill();
    let dead = cirque(&["health", "--address", &data], &[], None).await;
    assert_eq!(dead.code, 1, "{}", dead.output);
}

#[tokio::test]
async fn a_new_key_works_when_its_entry_is_pasted() {
    let made = cirque(&["keys", "new", "--name", "ci"], &[], None).await;
    assert_eq!(made.code, 0, "{}", made.output);
    let found = Regex::new(r"sk-cq-[A-Za-z0-9]+-[A-Za-z0-9_-]+").unwrap();
    let keys: Vec<_> = found.find_iter(&made.output).map(|key| key.as_str()).collect();
    assert_eq!(keys.len(), 1, "printed once: {}", made.output);
    let hash = Regex::new(r"[0-9a-f]{64}").unwrap();
    let hash = hash.find(&made.output).expect("a hash").as_str();
    let origin = Origin::start().await;
    let config = Config::to(&origin).without_keys().key(&format!("name: ci, sha256: \"{hash}\""));
    let gateway = Gateway::start(&config).await;
    let request = Request::post(CHAT, &chat()).anonymous().header("x-api-key", keys[0]);
    let reply = gateway.call(&request).await;
    assert_eq!(gateway.log_of(reply.assert_ok()).await["key"], "ci");
    let other = cirque(&["keys", "new", "--name", "ci"], &[], None).await;
    assert!(!other.output.contains(keys[0]), "keys are random");
}

#[tokio::test]
async fn a_new_key_gets_no_name_that_the_configuration_would_refuse() {
    for name in ["", "two\nlines", "quo\"te", " blank", &"x".repeat(65)] {
        let refused = cirque(&["keys", "new", "--name", name], &[], None).await;
        assert_eq!(refused.code, USAGE, "{name:?}: {}", refused.output);
        assert!(refused.output.contains("hint: write 1 to 64"), "{name:?}: {}", refused.output);
        assert!(!refused.output.contains("sk-cq-"), "{name:?}: {}", refused.output);
    }
}

#[tokio::test]
async fn the_schema_is_json_and_knows_every_section() {
    let printed = cirque(&["schema"], &[], None).await;
    assert_eq!(printed.code, 0, "{}", printed.output);
    let schema: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    for section in [
        "server",
        "admin",
        "cors",
        "keys",
        "upstreams",
        "routes",
        "prices",
        "limits",
        "session",
        "store",
        "langfuse",
        "log",
    ] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

#[tokio::test]
async fn the_environment_alone_is_enough() {
    let origin = Origin::start().await;
    let url = origin.base_url();
    let env = [
        FREE[0],
        FREE[1],
        ("OPENROUTER_API_KEY", UPSTREAM_KEY),
        ("OPENROUTER_API_BASE", url.as_str()),
        ("API_KEY", KEY),
        ("HTTP_REFERER", "https://example.com"),
        ("X_TITLE", "Example"),
        ("ALLOWED_ORIGINS", "https://a.example.com, https://b.example.com"),
    ];
    let gateway = Gateway::launch(&[], &env, TempDir::new().unwrap()).await;
    let request = Request::post(CHAT, &chat()).header("origin", "https://b.example.com");
    let reply = gateway.call(&request).await;
    let allowed = reply.assert_ok().header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://b.example.com"));
    let call = origin.only_call();
    let expected = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(call.headers.get("authorization"), Some(expected.as_str()));
    assert_eq!(call.headers.get("http-referer"), Some("https://example.com"));
    assert_eq!(call.headers.get("x-title"), Some("Example"));
}

#[tokio::test]
async fn a_dotenv_file_is_read_and_the_real_environment_wins() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    let file = format!(
        "# a comment\nOPENROUTER_API_KEY=sk-from-dotenv\nOPENROUTER_API_BASE={}\nAPI_KEY=\"{KEY}\"\n\
         PROXY_PORT=0\nADMIN_LISTEN=127.0.0.1:0\n",
        origin.base_url()
    );
    std::fs::write(folder.path().join(".env"), file).unwrap();
    let env = [("OPENROUTER_API_KEY", UPSTREAM_KEY)];
    let gateway = Gateway::launch(&["run"], &env, folder).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let expected = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(origin.only_call().headers.get("authorization"), Some(expected.as_str()));
}

#[tokio::test]
async fn without_a_callers_key_one_is_made_and_printed_once() {
    let origin = Origin::start().await;
    let url = origin.base_url();
    let env = [
        FREE[0],
        FREE[1],
        ("OPENROUTER_API_KEY", UPSTREAM_KEY),
        ("OPENROUTER_API_BASE", url.as_str()),
    ];
    let gateway = Gateway::launch(&["run"], &env, TempDir::new().unwrap()).await;
    let found = Regex::new(r"sk-cq-[A-Za-z0-9_-]+").unwrap();
    let key = eventually("a key on the console", || async {
        found.find(&gateway.process.output()).map(|key| key.as_str().to_owned())
    })
    .await;
    assert_eq!(gateway.post(CHAT, &chat()).await.status, 401);
    let request = Request::post(CHAT, &chat()).anonymous().header("x-api-key", &key);
    let reply = gateway.call(&request).await;
    gateway.log_of(reply.assert_ok()).await;
    assert_eq!(gateway.process.output().matches(&key).count(), 1);
}

#[tokio::test]
async fn references_are_expanded_in_values_and_never_become_yaml() {
    let origin = Origin::start().await;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("secret"), format!("{UPSTREAM_KEY}\n")).unwrap();
    let secret = folder.path().join("secret");
    let extra = format!(
        "api_key: \"${{file:{}}}\", headers: {{ X-Title: \"${{TITLE}}\", x-b: \"${{NOT_SET:-b: c}}\" }}",
        secret.display()
    );
    let text = Config::new()
        .upstream("main", &origin.base_url(), &extra)
        .server("max_body: ${LARGEST:-1KiB} # ${IN_A_COMMENT} is not expanded")
        .text();
    std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
    let env = [("TITLE", "a, b: { [\"x\"] # y"), ("CIRQUE_CONFIG", "gateway.yaml")];
    let gateway = Gateway::launch(&[], &env, folder).await;
    gateway.post(CHAT, &chat()).await.assert_ok();
    let call = origin.only_call();
    let expected = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(call.headers.get("authorization"), Some(expected.as_str()));
    assert_eq!(call.headers.get("x-title"), Some("a, b: { [\"x\"] # y"));
    assert_eq!(call.headers.get("x-b"), Some("b: c"));
    let mut large = chat();
    large["messages"][0]["content"] = serde_json::json!("x".repeat(2000));
    let reply = gateway.post(CHAT, &large).await;
    assert_openai_error(&reply, 413, "request_too_large");
}

#[tokio::test]
async fn settings_that_do_nothing_yet_are_named_and_never_ignored_in_silence() {
    let origin = Origin::start().await;
    let config = Config::to(&origin).key("name: b, secret: sk-b, budget: { usd: 1.0, per: day }");
    let gateway = Gateway::start(&config).await;
    let status = gateway.status().await.to_string();
    let told = gateway.process.stderr.text();
    let works = gateway.metric("cirque_budget_remaining_usd", &[("key", "b")]).await.is_some();
    assert!(works || (told.contains("budget") && status.contains("budget")), "{told}\n{status}");
}
