"""The official OpenAI SDK against failing upstreams: each failure has its class, none is silent."""

import asyncio
import json
import os
import socket
import time

import openai
import pytest

QUESTION = [{"role": "user", "content": "Where is Oslo?"}]


def ask(client, model, **more):
    return client.chat.completions.create(model=model, messages=QUESTION, **more)


def test_a_wrong_key_is_an_authentication_error(faults):
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(faults.with_options(api_key="sk-wrong"), "origin/echo")
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.request_id and "sk-wrong" not in caught.value.message


def test_a_model_that_the_key_may_not_use_is_a_permission_error(faults):
    narrow = faults.with_options(api_key=os.environ["INTEROP_NARROW_KEY"])
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(narrow, "origin/other")
    assert (caught.value.status_code, caught.value.code) == (403, "model_not_allowed")


def test_a_model_without_a_route_is_not_found(faults):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(faults, "nowhere/model")
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")
    with pytest.raises(openai.NotFoundError):
        faults.models.retrieve("nowhere/model")


def test_a_broken_request_is_a_bad_request(faults):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(faults, "")
    assert caught.value.code == "invalid_request" and caught.value.type == "invalid_request_error"


def test_the_upstreams_own_refusal_arrives_as_it_was(faults, scripted):
    model = scripted("bad-argument")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(faults, model.name, extra_body={"zest": 1})
    error = caught.value
    assert (error.param, error.code, error.type) == (
        "zest",
        "unknown_argument",
        "invalid_request_error",
    )
    assert model.hits() == 1


def test_upstreams_whose_credential_is_refused_are_no_fault_of_the_caller(faults, scripted):
    for script in ("status-401", "status-402"):
        model = scripted(script)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(faults, model.name)
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
        assert model.hits() == 2, "once each upstream"


def test_upstreams_at_their_limit_are_a_rate_limit_error(faults, scripted):
    model = scripted("limited")
    with pytest.raises(openai.RateLimitError) as caught:
        ask(faults, model.name)
    assert 25 <= int(caught.value.response.headers["retry-after"]) <= 30
    assert caught.value.code == "rate_limit_exceeded"
    assert model.hits() == 2, "once each upstream: x-should-retry holds the SDK's retries back"
    with pytest.raises(openai.RateLimitError) as caught:
        ask(faults.with_options(max_retries=0), model.name, stream=True)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
    assert model.hits() == 2, "an upstream that said for how long is not asked meanwhile"


BROKEN_REPLIES = [
    "status-500",
    "status-503",
    "status-529",
    "closed",
    "reset",
    "half-body",
    "half-json",
    "html",
    "short-chunk",
    "error-in-200",
    "padded-error-in-200",
    "gzip-cut",
]


@pytest.mark.parametrize("script", BROKEN_REPLIES)
def test_failing_upstreams_are_a_server_error_not_repeated(faults, scripted, script):
    model = scripted(script)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(faults, model.name)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert model.hits() == 2, "once each upstream"


BROKEN_STARTS = [
    "status-503",
    "closed",
    "reset",
    "error-in-200",
    "padded-error-in-200",
    "comments-then-error",
    "comments-then-cut",
    "empty-stream",
    "no-stream",
    "html",
]


@pytest.mark.parametrize("script", BROKEN_STARTS)
def test_a_stream_that_fails_before_its_first_word_has_a_true_status(faults, scripted, script):
    model = scripted(script)
    with pytest.raises(openai.InternalServerError) as caught:
        list(ask(faults, model.name, stream=True))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert model.hits() == 2, "once each upstream"


def test_a_large_reply_that_is_cut_is_a_connection_error(faults, scripted):
    model = scripted("half-of-a-large-body")
    with pytest.raises(openai.APIConnectionError):
        ask(faults.with_options(max_retries=0), model.name)
    assert model.hits() == 1, "so much had been sent on that nobody else could be asked"


def test_a_reply_compressed_unasked_arrives(faults, scripted):
    model = scripted("gzip")
    assert ask(faults, model.name).choices[0].message.content == "Whole"
    said = [chunk.choices[0].delta.content for chunk in ask(faults, model.name, stream=True)]
    assert said == ["Whole", None]


def test_a_compressed_stream_that_is_cut_raises(faults, scripted):
    # It is decoded on its way, so that the break can be told in words.
    with pytest.raises(openai.APIError):
        list(ask(faults, scripted("gzip-cut").name, stream=True))


def test_a_silent_upstream_is_a_gateway_timeout(faults, scripted):
    with pytest.raises(openai.InternalServerError) as caught:
        ask(faults, scripted("hang").name)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")


def test_a_client_that_gives_up_first_gets_its_own_timeout(faults, scripted):
    begun = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        ask(faults.with_options(timeout=0.5, max_retries=0), scripted("hang").name)
    assert time.monotonic() - begun < 2


def test_a_gateway_that_is_not_there_is_a_connection_error(faults):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(openai.APIConnectionError):
            ask(faults.with_options(base_url=nobody, max_retries=0), "origin/echo")


BROKEN_STREAMS = [
    "error-mid-stream",
    "truncated",
    "cut",
    "cut-in-an-event",
    "short-chunk-mid-stream",
    "garbled",
    "stalled",
]


@pytest.mark.parametrize("script", BROKEN_STREAMS)
def test_a_stream_that_breaks_raises_after_what_it_said(faults, scripted, script):
    model, said = scripted(script), []
    with pytest.raises(openai.APIError) as caught:
        for chunk in ask(faults, model.name, stream=True):
            said.append(chunk.choices[0].delta.content)
    assert "".join(said).startswith("Half a")
    assert caught.value.message
    assert model.hits() == 1, "a retry never follows the first token"


# `response.failed` is an event that this SDK hands on; a caller reads its status.
@pytest.mark.parametrize("script", [name for name in BROKEN_STREAMS if name != "error-mid-stream"])
def test_a_response_that_breaks_raises_after_what_it_said(faults, scripted, script):
    model, said = scripted(script), []
    with pytest.raises(openai.APIError):
        for event in faults.responses.create(model=model.name, input="Where is Oslo?", stream=True):
            said.append(event.type)
    assert said[-1] == "response.output_text.delta"
    assert model.hits() == 1


def test_a_response_that_fails_says_so(faults, scripted):
    model = scripted("error-mid-stream").name
    events = list(faults.responses.create(model=model, input="Where is Oslo?", stream=True))
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "failed")


def test_an_asynchronous_stream_that_breaks_raises_too(faults, scripted):
    async def read(script):
        client = openai.AsyncOpenAI(base_url=faults.base_url, api_key=faults.api_key)
        async with client:
            async for _ in await ask(client, scripted(script).name, stream=True):
                pass

    for script in ("cut", "truncated"):
        with pytest.raises(openai.APIError):
            asyncio.run(read(script))


def test_a_stream_that_said_why_it_stopped_is_whole(faults, scripted):
    model = scripted("cut-after-the-last-word")
    said = list(ask(faults, model.name, stream=True))
    assert said[0].choices[0].delta.content == "Whole"
    assert said[-1].choices[0].finish_reason == "stop"


def test_what_the_client_sent_is_what_the_upstream_gets(faults):
    more = {"zest": {"deep": [1, 2.50, "ø"]}, "n": 1}
    reply = ask(faults, "origin/echo", extra_body=more, temperature=0.3)
    seen = json.loads(reply.choices[0].message.content)
    assert seen["body"] == {
        "model": "origin/echo",
        "messages": QUESTION,
        "temperature": 0.3,
        **more,
    }
    assert seen["headers"]["authorization"] == f"Bearer {os.environ['INTEROP_UPSTREAM_KEY']}"
    assert faults.api_key not in json.dumps(seen)
    assert reply.model_extra["novelty"] == {"x": [1]}, "fields that no SDK knows arrive as well"
