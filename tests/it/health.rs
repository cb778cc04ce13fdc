//! What takes an upstream out and brings it back: breaker, probes, credentials, rate limits.

use crate::harness::{
    Config, Framing, Gate, Gateway, Origin, RefusedPort, Reply, Request, assert_openai_error, chat,
    chat_stream, delta, eventually, sample,
};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

/// What `/status` says of an upstream.
async fn state(gateway: &Gateway, name: &str) -> Value {
    let status = gateway.status().await;
    let upstreams = status["upstreams"].as_array().expect("a list");
    upstreams.iter().find(|u| u["name"] == name).expect("the upstream").clone()
}

async fn becomes(gateway: &Gateway, name: &str, wanted: &str) {
    eventually(&format!("{name} {wanted}"), || async {
        (state(gateway, name).await["state"] == wanted).then_some(())
    })
    .await;
}

/// `bad` is asked first, `good` where it is out or has failed.
async fn first_and_spare(bad_extra: &str) -> (Origin, Origin, Gateway) {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = Config::new()
        .upstream("bad", &bad.base_url(), bad_extra)
        .upstream("good", &good.base_url(), "priority: 1")
        .route(
            "models: [\"*\"], upstreams: [bad, good], balance: priority, \
             retry: { attempts: 3, budget: 1.0 }",
        );
    let gateway = Gateway::start(&config).await;
    (bad, good, gateway)
}

#[tokio::test]
async fn a_failing_upstream_is_ejected_and_a_trial_brings_it_back() {
    let (bad, good, gateway) =
        first_and_spare("breaker: { failures: 2, within: 30s, eject: 3s }").await;
    bad.always(Reply::error(500));
    for _ in 0..6 {
        gateway.post(PATH, &chat()).await.assert_ok();
    }
    assert_eq!(bad.calls().len(), 2, "after the second failure nobody asks it");
    assert_eq!(good.calls().len(), 6);
    let now = state(&gateway, "bad").await;
    assert_eq!((&now["healthy"], &now["state"]), (&json!(false), &json!("ejected")));
    assert!(now["ejected_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{now}");
    assert_eq!(now["last_error"]["what"], "status 500");
    let healthy = [("upstream", "bad")];
    gateway.metric_becomes("cirque_upstream_healthy", &healthy, 0.0).await;
    let said = |line: &Value| line["message"] == "upstream ejected" && line["upstream"] == "bad";
    gateway.process.stderr.json_where("the ejection in the log", said).await;
    // The trial fails once: twice as long out. The next one goes well.
    becomes(&gateway, "bad", "half_open").await;
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(bad.calls().len(), 3, "one call is the trial");
    assert_eq!(state(&gateway, "bad").await["state"], "ejected");
    bad.always(Reply::json_text(200, sample("chat_response.json")));
    becomes(&gateway, "bad", "half_open").await;
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(state(&gateway, "bad").await["state"], "healthy");
    gateway.metric_becomes("cirque_upstream_healthy", &healthy, 1.0).await;
    let said = |line: &Value| line["message"] == "upstream back" && line["upstream"] == "bad";
    gateway.process.stderr.json_where("the return in the log", said).await;
}

#[tokio::test]
async fn broken_streams_count_and_a_callers_own_faults_do_not() {
    let (bad, _good, gateway) =
        first_and_spare("breaker: { failures: 2, within: 30s, eject: 30s }").await;
    for status in [400, 404, 413, 422, 400] {
        bad.next(Reply::error(status));
        assert_eq!(gateway.post(PATH, &chat()).await.status, status);
    }
    assert_eq!(state(&gateway, "bad").await["state"], "healthy");
    for _ in 0..2 {
        bad.next(Reply::stream().piece(delta("a")).end());
        let reply = gateway.post(PATH, &chat_stream()).await;
        gateway.log_of(reply.assert_ok()).await;
    }
    assert_eq!(state(&gateway, "bad").await["state"], "ejected");
}

#[tokio::test]
async fn a_refused_credential_ejects_at_once_and_says_so() {
    for (script, words) in [
        (Reply::error(401), "the credential was refused (status 401)"),
        (Reply::error(403), "the credential may not do this (status 403)"),
        (Reply::recorded(sample("error_402_openrouter.http")), "no credit is left (status 402)"),
        (
            Reply::recorded(sample("error_429_openai_quota.http")),
            "no quota is left (status 429, insufficient_quota)",
        ),
    ] {
        let (bad, _good, gateway) = first_and_spare("").await;
        bad.always(script);
        for _ in 0..3 {
            gateway.post(PATH, &chat()).await.assert_ok();
        }
        assert_eq!(bad.calls().len(), 1, "{words}");
        let now = state(&gateway, "bad").await;
        assert_eq!(now["state"], "ejected", "{words}");
        assert_eq!(now["last_error"]["what"], words);
    }
}

#[tokio::test]
async fn a_moderated_prompt_is_the_callers_and_ejects_nobody() {
    let (bad, good, gateway) = first_and_spare("").await;
    let flagged = json!({"error": {"code": 403, "message": "flagged",
        "metadata": {"reasons": ["x"], "flagged_input": "y"}}});
    bad.next(Reply::json(403, &flagged));
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!((reply.status, reply.json()), (403, flagged));
    assert!(good.calls().is_empty());
    assert_eq!(state(&gateway, "bad").await["state"], "healthy");
}

#[tokio::test]
async fn an_upstream_that_says_429_for_a_time_gets_nothing_for_that_time() {
    let (bad, good, gateway) = first_and_spare("").await;
    bad.next(Reply::error(429).header("retry-after", "20"));
    for _ in 0..5 {
        gateway.post(PATH, &chat()).await.assert_ok();
    }
    assert_eq!((bad.calls().len(), good.calls().len()), (1, 5));
    let now = state(&gateway, "bad").await;
    assert_eq!((&now["state"], &now["healthy"]), (&json!("rate_limited"), &json!(true)));
    // With the other one limited too, nobody is asked at all.
    good.next(Reply::error(429).header("retry-after", "7"));
    let first = gateway.post(PATH, &chat()).await;
    assert_openai_error(&first, 429, "rate_limit_exceeded");
    let asked = (bad.calls().len(), good.calls().len());
    let second = gateway.post(PATH, &chat()).await;
    assert_openai_error(&second, 429, "rate_limit_exceeded");
    let wait: u64 = second.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((5..=7).contains(&wait), "{wait}");
    assert_eq!((bad.calls().len(), good.calls().len()), asked, "both were left alone");
}

#[tokio::test]
async fn a_model_without_capacity_keeps_no_other_model_away() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    origin.next(Reply::recorded(sample("error_429_openrouter_capacity.http")));
    for asked in [1, 1] {
        let reply = gateway.post(PATH, &chat()).await;
        assert_openai_error(&reply, 429, "rate_limit_exceeded");
        assert_eq!(origin.calls().len(), asked, "it is left alone with this model");
    }
    let mut other = chat();
    other["model"] = json!("acme/wisp-2-nano");
    gateway.post(PATH, &other).await.assert_ok();
    let now = state(&gateway, "main").await;
    assert_eq!(now["state"], "healthy");
    assert_eq!(now["resting_models"][0]["model"], "acme/wisp-2-mini", "{now}");
    let said = |line: &Value| line["message"] == "model rests" && line["upstream"] == "main";
    gateway.process.stderr.json_where("the model that rests", said).await;
}

#[tokio::test]
async fn a_short_rate_limit_of_the_only_upstream_is_waited_out() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    origin.next(Reply::error(429).header("retry-after-ms", "120"));
    let reply = gateway.post(PATH, &chat()).await;
    assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("2"));
}

#[tokio::test]
async fn what_is_left_of_a_providers_limits_is_shown_and_steers() {
    let (bad, good, gateway) = first_and_spare("").await;
    let left = |requests: &str| {
        Reply::json_text(200, sample("chat_response.json"))
            .header("x-ratelimit-remaining-requests", requests)
            .header("x-ratelimit-reset-requests", "1m0s")
            .header("x-ratelimit-remaining-tokens", "199100")
    };
    bad.next(left("2"));
    gateway.post(PATH, &chat()).await.assert_ok();
    let quota = state(&gateway, "bad").await["quota"].clone();
    assert_eq!(quota, json!({"requests": 2.0, "tokens": 199_100.0}));
    let labels = [("upstream", "bad"), ("kind", "requests")];
    gateway.metric_becomes("cirque_upstream_quota_remaining", &labels, 2.0).await;
    bad.next(left("0"));
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!((bad.calls().len(), good.calls().len()), (2, 0));
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!((bad.calls().len(), good.calls().len()), (2, 1), "none left: the other is asked");
}

#[tokio::test]
async fn openrouter_says_what_credit_is_left() {
    let origin = Origin::start().await;
    let config = Config::new().upstream(
        "main",
        &origin.base_url(),
        "provider: openrouter, health: { interval: 1s, timeout: 1s }",
    );
    let gateway = Gateway::start(&config).await;
    let labels = [("upstream", "main"), ("kind", "credits")];
    gateway.metric_becomes("cirque_upstream_quota_remaining", &labels, 74.5).await;
    assert_eq!(state(&gateway, "main").await["quota"]["credits"], 74.5);
    let probe = origin.catalogue_calls().into_iter().find(|call| call.target == "/v1/key");
    assert!(probe.expect("a probe").headers.get("authorization").is_some());
}

#[tokio::test]
async fn probes_take_an_upstream_out_and_bring_it_back() {
    let (bad, good, gateway) = first_and_spare(
        "health: { path: \"/models\", interval: 100ms, timeout: 1s, unhealthy_after: 2, healthy_after: 2 }",
    )
    .await;
    bad.lists_reply(Reply::error(503));
    becomes(&gateway, "bad", "unhealthy").await;
    let now = state(&gateway, "bad").await;
    assert_eq!(
        (&now["healthy"], &now["last_error"]["what"]),
        (&json!(false), &json!("probe: status 503"))
    );
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!((bad.calls().len(), good.calls().len()), (0, 1));
    bad.lists(&["m"]);
    becomes(&gateway, "bad", "healthy").await;
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(bad.calls().len(), 1);
    for message in ["upstream unhealthy", "upstream healthy"] {
        gateway.process.stderr.json_where(message, |line| line["message"] == message).await;
    }
}

#[tokio::test]
async fn a_probe_without_an_answer_fails_in_its_time() {
    let (bad, _good, gateway) = first_and_spare(
        "health: { interval: 100ms, timeout: 200ms, unhealthy_after: 1, healthy_after: 1 }",
    )
    .await;
    becomes(&gateway, "bad", "healthy").await;
    bad.lists_reply(Reply::silence());
    becomes(&gateway, "bad", "unhealthy").await;
    assert_eq!(state(&gateway, "bad").await["last_error"]["what"], "probe: no answer in time");
}

#[tokio::test]
async fn when_all_are_out_the_least_bad_is_still_asked() {
    let origin = Origin::start().await;
    let config = Config::new()
        .upstream("main", &origin.base_url(), "breaker: { failures: 1, within: 30s, eject: 10m }")
        .route("models: [\"*\"], upstreams: [main], retry: { attempts: 1 }");
    let gateway = Gateway::start(&config).await;
    becomes(&gateway, "main", "healthy").await;
    assert_eq!(gateway.admin_get("/ready").await.status, 200);
    origin.next(Reply::error(500));
    assert_openai_error(&gateway.post(PATH, &chat()).await, 502, "upstream_error");
    assert_eq!(state(&gateway, "main").await["state"], "ejected");
    assert_eq!(gateway.admin_get("/ready").await.status, 503);
    gateway.post(PATH, &chat()).await.assert_ok();
    // It works again, so it need not wait for the ten minutes to be over.
    assert_eq!(state(&gateway, "main").await["state"], "healthy");
    assert_eq!(gateway.admin_get("/ready").await.status, 200);
}

#[tokio::test]
async fn readiness_returns_without_a_call_once_an_ejection_is_over() {
    let origin = Origin::start().await;
    let config = Config::new()
        .upstream("main", &origin.base_url(), "breaker: { failures: 1, within: 30s, eject: 1s }")
        .route("models: [\"*\"], upstreams: [main], retry: { attempts: 1 }");
    let gateway = Gateway::start(&config).await;
    origin.next(Reply::error(500));
    assert_openai_error(&gateway.post(PATH, &chat()).await, 502, "upstream_error");
    eventually("readiness", || async {
        (gateway.admin_get("/ready").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(origin.calls().len(), 1);
}

#[tokio::test]
async fn after_an_ejection_good_probes_speak_for_it_and_a_call_is_its_trial() {
    let (bad, _good, gateway) = first_and_spare(
        "health: { interval: 100ms, timeout: 1s }, breaker: { failures: 2, within: 30s, eject: 3s }",
    )
    .await;
    bad.always(Reply::error(500));
    for _ in 0..2 {
        gateway.post(PATH, &chat()).await.assert_ok();
    }
    let labels = [("upstream", "bad")];
    gateway.metric_becomes("cirque_upstream_healthy", &labels, 0.0).await;
    gateway.metric_becomes("cirque_upstream_healthy", &labels, 1.0).await;
    let now = state(&gateway, "bad").await;
    assert_eq!((&now["state"], &now["healthy"]), (&json!("half_open"), &json!(true)));
    assert_eq!(bad.calls().len(), 2, "no call was needed");
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(state(&gateway, "bad").await["state"], "ejected", "one failed trial will do");
    for message in ["upstream awaits its trial", "upstream on trial"] {
        gateway.process.stderr.json_where(message, |line| line["message"] == message).await;
    }
}

#[tokio::test]
async fn a_stream_of_comments_alone_is_no_trial_that_went_well() {
    let (bad, _good, gateway) =
        first_and_spare("health: off, breaker: { failures: 1, within: 30s, eject: 1s }").await;
    bad.next(Reply::error(500));
    gateway.post(PATH, &chat()).await.assert_ok();
    becomes(&gateway, "bad", "half_open").await;
    bad.next(Reply::stream().piece(": still here\n".repeat(30_000)).close());
    let reply = gateway.post(PATH, &chat_stream()).await;
    assert_eq!(gateway.log_of(reply.assert_ok()).await["error_code"], "upstream_error");
    assert_eq!(state(&gateway, "bad").await["state"], "ejected");
    let lines = gateway.process.stderr.json();
    assert!(lines.iter().all(|line| line["message"] != "upstream back"), "{lines:?}");
}

#[tokio::test]
async fn no_probe_speaks_for_a_refused_credential() {
    let (bad, _good, gateway) = first_and_spare(
        "health: { interval: 100ms, timeout: 1s }, breaker: { failures: 5, within: 30s, eject: 1s }",
    )
    .await;
    bad.next(Reply::error(401));
    gateway.post(PATH, &chat()).await.assert_ok();
    becomes(&gateway, "bad", "half_open").await;
    let probes = bad.catalogue_calls().len();
    eventually("two more probes", || async {
        (bad.catalogue_calls().len() > probes + 2).then_some(())
    })
    .await;
    let now = state(&gateway, "bad").await;
    assert_eq!((&now["state"], &now["healthy"]), (&json!("half_open"), &json!(false)));
}

#[tokio::test]
async fn both_ends_of_a_rest_are_seen_in_metrics_and_log() {
    let (bad, _good, gateway) = first_and_spare("").await;
    for (failure, state, message) in [
        (Reply::error(429).header("retry-after", "3"), "rate_limited", "upstream rate limited"),
        (Reply::error(503).header("retry-after", "3"), "resting", "upstream resting"),
    ] {
        bad.next(failure);
        gateway.post(PATH, &chat()).await.assert_ok();
        let is_in = |state| [("upstream", "bad"), ("state", state)];
        let states = "cirque_upstream_state";
        assert_eq!(gateway.metric(states, &is_in(state)).await, Some(1.0));
        assert_eq!(gateway.metric(states, &is_in("healthy")).await, Some(0.0));
        gateway.process.stderr.json_where(message, |line| line["message"] == message).await;
        becomes(&gateway, "bad", "healthy").await;
        gateway.metric_becomes(states, &is_in("healthy"), 1.0).await;
        // The end is noticed by whoever looks next.
        gateway.post(PATH, &chat()).await.assert_ok();
        let rested = |line: &Value| line["message"] == "upstream rested";
        gateway.process.stderr.json_where("the end of the rest", rested).await;
    }
}

#[tokio::test]
async fn anthropics_own_api_is_asked_with_its_version() {
    let origin = Origin::start().await;
    let config = Config::new().upstream(
        "main",
        &origin.base_url(),
        "provider: anthropic, health: { interval: 100ms, timeout: 1s }",
    );
    let gateway = Gateway::start(&config).await;
    gateway.lists("acme/wisp-2-mini").await;
    let calls = origin.catalogue_calls();
    assert!(!calls.is_empty());
    for call in calls {
        assert_eq!(call.headers.get("anthropic-version"), Some("2023-06-01"), "{}", call.target);
    }
}

#[tokio::test]
async fn a_rate_limit_counts_though_the_words_behind_it_are_cut_off() {
    let (bad, good, gateway) = first_and_spare("").await;
    let cut = Reply::head(429, "application/json", Framing::Length(100))
        .header("retry-after", "20")
        .piece("{\"error\"")
        .close();
    bad.next(cut);
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(state(&gateway, "bad").await["state"], "rate_limited");
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!((bad.calls().len(), good.calls().len()), (1, 2));
}

#[tokio::test]
async fn a_senseless_reset_harms_nobody() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&Config::to(&origin)).await;
    for reset in ["5000000000000000h5000000000000000h", "1e300", "-1", "\u{e9}"] {
        let reply = Reply::json_text(200, sample("chat_response.json"))
            .header("x-ratelimit-remaining-requests", "1")
            .header("x-ratelimit-reset-requests", reset);
        origin.next(reply);
        gateway.post(PATH, &chat()).await.assert_ok();
    }
}

#[tokio::test]
async fn a_rejected_reload_changes_no_state_and_an_old_key_blames_no_new_one() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = |key: &str, tls: &str| {
        Config::new()
            .upstream("bad", &bad.base_url(), &format!("api_key: {key}"))
            .upstream("good", &good.base_url(), &format!("priority: 1{tls}"))
            .route("models: [\"*\"], upstreams: [bad, good], balance: priority")
    };
    let gateway = Gateway::start(&config("sk-old", "").clone()).await;
    bad.next(Reply::error(401));
    gateway.post(PATH, &chat()).await.assert_ok();
    let gate = Gate::new();
    bad.next(Reply::error(401).after(&gate));
    gateway.rewrite(&config("sk-new", ", base_url: 1").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 422);
    assert_eq!(state(&gateway, "bad").await["state"], "ejected", "nothing has changed");
    // A call with the old key is under way while the new one comes into force.
    gateway.rewrite(&config("sk-mid", "").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    let mut client = gateway.client().await;
    let late = tokio::spawn(async move { client.call(&Request::post(PATH, &chat())).await });
    bad.call(1).await;
    gateway.rewrite(&config("sk-new", "").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    gate.open();
    late.await.expect("a reply").assert_ok();
    assert_eq!(state(&gateway, "bad").await["state"], "healthy", "the new key is not to blame");
}

#[tokio::test]
async fn an_upstream_that_nobody_serves_is_unhealthy_to_probes() {
    let (refused, good) = (RefusedPort::take(), Origin::start().await);
    let probed = "health: { interval: 100ms, timeout: 1s, unhealthy_after: 2 }";
    let config = Config::new()
        .upstream("nobody", &refused.base_url(), probed)
        .upstream("good", &good.base_url(), "")
        .route_over("nobody, good");
    let gateway = Gateway::start(&config).await;
    becomes(&gateway, "nobody", "unhealthy").await;
    for _ in 0..4 {
        let reply = gateway.post(PATH, &chat()).await;
        assert_eq!(reply.assert_ok().header("x-cirque-attempts"), Some("1"));
    }
}

#[tokio::test]
async fn states_outlive_a_reload_and_a_new_credential_starts_afresh() {
    let (bad, good) = (Origin::start().await, Origin::start().await);
    let config = |key: &str, level: &str| {
        Config::new()
            .upstream("bad", &bad.base_url(), &format!("api_key: {key}"))
            .upstream("good", &good.base_url(), "priority: 1")
            .route("models: [\"*\"], upstreams: [bad, good], balance: priority")
            .section(&format!("log: {{ level: {level} }}"))
    };
    let gateway = Gateway::start(&config("sk-old", "info")).await;
    bad.next(Reply::error(401));
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(state(&gateway, "bad").await["state"], "ejected");
    gateway.rewrite(&config("sk-old", "warn").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    assert_eq!(state(&gateway, "bad").await["state"], "ejected");
    gateway.rewrite(&config("sk-new", "warn").text());
    assert_eq!(gateway.admin_call("POST", "/reload").await.status, 200);
    assert_eq!(state(&gateway, "bad").await["state"], "healthy");
    gateway.post(PATH, &chat()).await.assert_ok();
    assert_eq!(bad.calls().len(), 2);
}
