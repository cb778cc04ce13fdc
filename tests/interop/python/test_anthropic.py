"""The official Anthropic SDK through the gateway."""

import os

import anthropic
import pytest

QUESTION = [{"role": "user", "content": "Where is Oslo?"}]
TOOL = {
    "name": "tide",
    "description": "High water",
    "input_schema": {"type": "object", "properties": {"port": {"type": "string"}}},
}


def ask(client, model="demo/chat", max_tokens=200, **more):
    messages = more.pop("messages", QUESTION)
    return client.messages.create(model=model, max_tokens=max_tokens, messages=messages, **more)


def test_a_plain_message(claude):
    reply = ask(claude)
    assert reply.content[0].text.startswith("You said: “Where is Oslo?”.")
    assert reply.stop_reason == "end_turn" and reply.usage.output_tokens > 0


def test_a_streamed_message_says_the_same(claude):
    with claude.messages.stream(
        model="demo/reasoning", max_tokens=200, messages=QUESTION
    ) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert said == final.content[1].text and said.startswith("You said: “Where is Oslo?”.")
    assert final.stop_reason == "end_turn"


def test_a_short_maximum_is_told(claude):
    reply = ask(claude, max_tokens=4)
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 4)


def test_a_tool_is_called_and_its_result_answered(claude):
    said = [{"role": "user", "content": "How high is the tide in Bergen?"}]
    for stream in (False, True):
        call = {"model": "demo/tools", "max_tokens": 200, "messages": said, "tools": [TOOL]}
        if stream:
            with claude.messages.stream(**call) as events:
                reply = events.get_final_message()
        else:
            reply = claude.messages.create(**call)
        assert reply.stop_reason == "tool_use"
        assert reply.content[0].input == {"port": "Bergen"}
    result = {"type": "tool_result", "tool_use_id": reply.content[0].id, "content": "06:12"}
    said += [
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
    ]
    reply = ask(claude, "demo/tools", messages=said, tools=[TOOL])
    assert reply.content[0].text.startswith("The tool says: “06:12”.")


@pytest.mark.parametrize("base", ["", "/", "/api"])
def test_every_address_that_users_write_works(base):
    client = anthropic.Anthropic(
        base_url=os.environ["INTEROP_DEMO"] + base, auth_token=os.environ["INTEROP_DEMO_KEY"]
    )
    assert ask(client, max_tokens=1).content[0].text == "You "


def test_a_wrong_key_is_an_authentication_error(claude):
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask(claude.with_options(api_key="sk-wrong"))
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_a_broken_request_is_a_bad_request(claude):
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(claude, messages=[])
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_a_failing_upstream_goes_unnoticed(claude):
    for fault in ("fails-503", "error-in-200"):
        reply = ask(claude, f"demo/{fault}", max_tokens=5)
        assert reply.content[0].text.startswith("You said:")


def test_when_every_upstream_fails_the_call_fails(claude):
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(claude, "demo/fails-everywhere")
    assert caught.value.body["type"] == "error"
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("fault", ["cut-mid-stream", "truncates", "stalls"])
def test_a_broken_stream_is_never_a_short_answer(claude, fault):
    said = []
    with pytest.raises(anthropic.APIError):
        with claude.messages.stream(
            model=f"demo/{fault}", max_tokens=200, messages=QUESTION
        ) as stream:
            said.extend(stream.text_stream)
    assert "".join(said).startswith("You said:")


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
def test_a_stream_that_breaks_raises_after_what_it_said(claude_faults, scripted, script):
    model, said = scripted(script), []
    with pytest.raises(anthropic.APIError) as caught:
        with claude_faults.messages.stream(
            model=model.name, max_tokens=9, messages=QUESTION
        ) as stream:
            said.extend(stream.text_stream)
    assert "".join(said).startswith("Half a")
    assert caught.value.message
    assert model.hits() == 1, "a retry never follows the first token"


@pytest.mark.parametrize("script", ["status-503", "comments-then-error", "comments-then-cut", "empty-stream"])
def test_a_stream_that_fails_before_its_first_word_has_a_true_status(
    claude_faults, scripted, script
):
    model = scripted(script)
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(claude_faults, model.name, stream=True)
    assert caught.value.status_code == 502
    assert caught.value.body["error"]["type"] == "api_error"
    assert model.hits() == 2, "once each upstream"


@pytest.mark.parametrize("script", ["closed", "half-body", "padded-error-in-200"])
def test_failing_upstreams_are_a_server_error_not_repeated(claude_faults, scripted, script):
    model = scripted(script)
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(claude_faults, model.name)
    assert caught.value.status_code == 502
    assert model.hits() == 2, "once each upstream"


def test_upstreams_at_their_limit_are_a_rate_limit_error(claude_faults, scripted):
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(claude_faults.with_options(max_retries=0), scripted("limited").name)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.body["error"]["type"] == "rate_limit_error"
