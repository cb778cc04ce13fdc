"""The official OpenAI SDK through `cirque demo`: what works must just work."""

import asyncio
import json
import os

import openai
import pytest
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "Where is Oslo?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "High water",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
    },
}


def alike(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


class City(BaseModel):
    name: str
    people: int


def test_a_plain_chat(demo):
    reply = demo.chat.completions.create(model="demo/chat", messages=QUESTION)
    assert reply.choices[0].message.content.startswith("You said: “Where is Oslo?”.")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.model_extra["cost"] > 0


def test_a_streamed_chat_says_the_same(demo):
    stream = demo.chat.completions.create(model="demo/chat", messages=QUESTION, stream=True)
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said.startswith("You said: “Where is Oslo?”.") and said.endswith("failover.")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_usage_comes_in_its_own_chunk_when_asked_for(demo):
    stream = demo.chat.completions.create(
        model="demo/chat",
        messages=QUESTION,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert last.choices == [] and last.usage.completion_tokens == 5
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_asynchronous_client_runs_many_streams_at_once():
    async def one(client):
        stream = await client.chat.completions.create(
            model="demo/chat", messages=QUESTION, max_tokens=20, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def many():
        base = os.environ["INTEROP_DEMO"] + "/v1"
        async with openai.AsyncOpenAI(
            base_url=base, api_key=os.environ["INTEROP_DEMO_KEY"]
        ) as client:
            return await asyncio.gather(*(one(client) for _ in range(20)))

    said = asyncio.run(many())
    assert len(said) == 20 and all(text.startswith("You said: “Where is Oslo?”.") for text in said)


def test_a_tool_is_called_and_its_result_answered(demo):
    messages = [{"role": "user", "content": "How high is the tide in Bergen?"}]
    reply = demo.chat.completions.create(model="demo/tools", messages=messages, tools=[TOOL])
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    call = message.tool_calls[0]
    assert call.function.name == "tide"
    assert json.loads(call.function.arguments) == {"port": "Bergen"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "06:12"}]
    reply = demo.chat.completions.create(model="demo/tools", messages=messages, tools=[TOOL])
    assert reply.choices[0].message.content.startswith("The tool says: “06:12”.")


def test_a_streamed_tool_call_joins_to_one(demo):
    messages = [{"role": "user", "content": "How high is the tide in Bergen?"}]
    with demo.chat.completions.stream(
        model="demo/tools", messages=messages, tools=[TOOL]
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"port": "Bergen"}


def test_structured_output_parses(demo):
    reply = demo.chat.completions.parse(
        model="demo/chat", messages=QUESTION, response_format=City
    )
    assert reply.choices[0].message.parsed == City(name="Oslo", people=1)


def test_reasoning_passes_beside_the_text(demo):
    reply = demo.chat.completions.create(model="demo/reasoning", messages=QUESTION)
    assert "gateway" in reply.choices[0].message.model_extra["reasoning"]
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0


def test_a_legacy_completion(demo):
    reply = demo.completions.create(model="demo/chat", prompt="Once upon", max_tokens=3)
    assert reply.choices[0].text == "You said: “Once "
    stream = demo.completions.create(
        model="demo/chat", prompt="Once upon", max_tokens=3, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == "You said: “Once "


def test_a_plain_response(demo):
    reply = demo.responses.create(model="demo/chat", input="Where is Oslo?")
    assert reply.status == "completed"
    assert reply.output_text.startswith("You said: “Where is Oslo?”.")
    assert reply.usage.output_tokens > 0


def test_a_streamed_response_says_the_same(demo):
    with demo.responses.stream(model="demo/reasoning", input="Where is Oslo?") as stream:
        said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == final.output_text and said.startswith("You said: “Where is Oslo?”.")
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_a_response_parses(demo):
    reply = demo.responses.parse(model="demo/chat", input="Where is Oslo?", text_format=City)
    assert reply.output_parsed == City(name="Oslo", people=1)


def test_a_tool_call_in_a_response_and_its_result(demo):
    tool = {"type": "function", **TOOL["function"], "strict": False}
    said = [{"role": "user", "content": "How high is the tide in Bergen?"}]
    reply = demo.responses.create(model="demo/tools", input=said, tools=[tool])
    call = reply.output[0]
    assert (call.type, json.loads(call.arguments)) == ("function_call", {"port": "Bergen"})
    said += reply.output
    said.append({"type": "function_call_output", "call_id": call.call_id, "output": "06:12"})
    reply = demo.responses.create(model="demo/tools", input=said, tools=[tool])
    assert reply.output_text.startswith("The tool says: “06:12”.")


def test_models_are_listed_and_found(demo):
    models = {model.id: model for model in demo.models.list()}
    assert {"demo/chat", "demo/embed"} <= models.keys()
    found = demo.models.retrieve("demo/chat")
    assert (found.id, found.object) == ("demo/chat", "model")
    assert found.model_extra["pricing"] == models["demo/chat"].model_extra["pricing"]


@pytest.mark.parametrize("encoding", [openai.omit, "float"])
def test_embeddings_of_like_texts_are_alike(demo, encoding):
    texts = ["high tide in Oslo", "low tide in Oslo", "pay your taxes"]
    reply = demo.embeddings.create(model="demo/embed", input=texts, encoding_format=encoding)
    sea, tide, tax = (item.embedding for item in reply.data)
    assert alike(sea, sea) == pytest.approx(1, rel=1e-4)
    assert alike(sea, tide) > alike(sea, tax) + 0.3
    assert reply.usage.prompt_tokens == 11


def test_a_reply_carries_the_gateways_headers(demo):
    raw = demo.chat.completions.with_raw_response.create(
        model="demo/chat", messages=QUESTION, max_tokens=1
    )
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.headers["x-cirque-upstream"] in ("demo-main", "demo-spare")
    assert raw.headers["x-cirque-attempts"] == "1"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["fails-503", "fails-429", "refuses-key", "error-in-200"])
def test_a_failing_upstream_goes_unnoticed(demo, fault, stream):
    raw = demo.chat.completions.with_raw_response.create(
        model=f"demo/{fault}", messages=QUESTION, max_tokens=3, stream=stream
    )
    reply = raw.parse()
    chunks = list(reply) if stream else [reply]
    said = [chunk.choices[0].delta if stream else chunk.choices[0].message for chunk in chunks]
    assert "".join(part.content or "" for part in said).startswith("You said:")
    assert raw.headers["x-cirque-upstream"] == "demo-spare"


def test_a_slow_stream_is_kept_alive_and_comes_whole(demo):
    stream = demo.with_options(timeout=2.5).chat.completions.create(
        model="demo/slow", messages=QUESTION, max_tokens=5, stream=True
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == "You said: “Where is Oslo?”. "


@pytest.mark.parametrize("fault", ["cut-mid-stream", "truncates", "stalls"])
def test_a_broken_stream_is_never_a_short_answer(demo, fault):
    stream = demo.chat.completions.create(model=f"demo/{fault}", messages=QUESTION, stream=True)
    said = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")
    assert "".join(said).startswith("You said:")
    assert caught.value.message and "127.0.0.1" not in caught.value.message


def test_when_every_upstream_fails_the_call_fails_once(demo):
    with pytest.raises(openai.InternalServerError) as caught:
        demo.chat.completions.create(model="demo/fails-everywhere", messages=QUESTION)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code == "upstream_error"
