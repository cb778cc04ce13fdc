// The official Anthropic SDK through the gateway.

import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";
import { test } from "node:test";
import { claude, claudeFaults, messages, opening, scripted } from "./gateways.mjs";

const asked = { model: "demo/chat", max_tokens: 200, messages };

test("a plain message", async () => {
  const reply = await claude.messages.create(asked);
  assert.ok(reply.content[0].text.startsWith(opening));
  assert.equal(reply.stop_reason, "end_turn");
});

test("a streamed message with thoughts", async () => {
  const stream = claude.messages.stream({ ...asked, model: "demo/reasoning" });
  let said = "";
  stream.on("text", (text) => (said += text));
  const final = await stream.finalMessage();
  assert.deepEqual(final.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(final.content[1].text, said);
});

test("a streamed tool call", async () => {
  const input_schema = { type: "object", properties: { port: { type: "string" } } };
  const stream = claude.messages.stream({
    ...asked,
    model: "demo/tools",
    messages: [{ role: "user", content: "How high is the tide in Bergen?" }],
    tools: [{ name: "tide", input_schema }],
  });
  const { content, stop_reason } = await stream.finalMessage();
  assert.equal(stop_reason, "tool_use");
  assert.deepEqual(content[0].input, { port: "Bergen" });
});

test("each error has its class", async () => {
  const wrong = claude.withOptions({ apiKey: "sk-wrong" });
  const cases = [
    [() => wrong.messages.create(asked), Anthropic.AuthenticationError, "authentication_error"],
    [
      () => claude.messages.create({ ...asked, messages: [] }),
      Anthropic.BadRequestError,
      "invalid_request_error",
    ],
    [
      () => claude.messages.create({ ...asked, model: "demo/fails-everywhere" }),
      Anthropic.InternalServerError,
      "api_error",
    ],
  ];
  for (const [call, kind, type] of cases) {
    const error = await call().then(() => assert.fail("answered"), (error) => error);
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    assert.equal(error.error.error.type, type);
  }
});

for (const fault of ["cut-mid-stream", "truncates", "stalls"]) {
  test(`${fault} is never a short answer`, async () => {
    const stream = claude.messages.stream({ ...asked, model: `demo/${fault}` });
    await assert.rejects(stream.finalMessage(), Anthropic.APIError);
  });
}

for (const script of [
  "error-mid-stream",
  "truncated",
  "cut",
  "cut-in-an-event",
  "short-chunk-mid-stream",
  "garbled",
  "stalled",
]) {
  test(`a message that is ${script} raises after what it said`, async () => {
    let said = "";
    const asked = { model: scripted(script).name, max_tokens: 9, messages };
    const stream = claudeFaults.messages.stream(asked);
    stream.on("text", (text) => (said += text));
    await assert.rejects(stream.finalMessage(), Anthropic.APIError);
    assert.ok(said.startsWith("Half a"));
  });
}

for (const script of ["status-503", "comments-then-error", "comments-then-cut", "empty-stream"]) {
  test(`${script} before the first word has a true status`, async () => {
    const asked = { model: scripted(script).name, max_tokens: 9, messages, stream: true };
    const call = claudeFaults.messages.create(asked);
    const error = await call.then(() => assert.fail("answered"), (error) => error);
    assert.ok(error instanceof Anthropic.InternalServerError, `${error}`);
    assert.deepEqual([error.status, error.error.error.type], [502, "api_error"]);
  });
}
