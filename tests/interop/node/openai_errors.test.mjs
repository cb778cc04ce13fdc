// The official OpenAI SDK against failing upstreams: each failure has its class, none is silent.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { test } from "node:test";
import OpenAI from "openai";
import { faults, messages, narrow, scripted } from "./gateways.mjs";

const ask = (client, model, more = {}) =>
  client.chat.completions.create({ model, messages, ...more });

/** The error of a call that must fail with this class. */
async function caught(call, kind) {
  const error = await call.then(() => assert.fail("answered"), (error) => error);
  assert.ok(error instanceof kind, `${error?.constructor?.name}: ${error?.message}`);
  return error;
}

test("each refusal of the gateway has its class", async () => {
  const wrong = faults.withOptions({ apiKey: "sk-wrong" });
  const cases = [
    [() => ask(wrong, "origin/echo"), OpenAI.AuthenticationError, 401, "invalid_api_key"],
    [() => ask(narrow, "origin/other"), OpenAI.PermissionDeniedError, 403, "model_not_allowed"],
    [() => ask(faults, "nowhere/model"), OpenAI.NotFoundError, 404, "model_not_found"],
    [() => faults.models.retrieve("nowhere/model"), OpenAI.NotFoundError, 404, "model_not_found"],
    [() => ask(faults, ""), OpenAI.BadRequestError, 400, "invalid_request"],
  ];
  for (const [call, kind, status, code] of cases) {
    const error = await caught(call(), kind);
    assert.deepEqual([error.status, error.code], [status, code]);
    assert.ok(error.requestID);
  }
});

test("the upstream's own refusal arrives as it was", async () => {
  const error = await caught(ask(faults, scripted("bad-argument").name), OpenAI.BadRequestError);
  assert.deepEqual([error.param, error.code], ["zest", "unknown_argument"]);
});

for (const script of [
  "status-401",
  "status-500",
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
]) {
  test(`${script} of both upstreams is an error that the SDK does not repeat`, async () => {
    const model = scripted(script);
    const error = await caught(ask(faults, model.name), OpenAI.InternalServerError);
    assert.deepEqual([error.status, error.code], [502, "upstream_error"]);
    assert.equal(error.headers.get("x-should-retry"), "false");
    assert.equal(await model.hits(), 2);
  });
}

test("upstreams at their limit are a rate limit error", async () => {
  const once = faults.withOptions({ maxRetries: 0 });
  const error = await caught(ask(once, scripted("limited").name), OpenAI.RateLimitError);
  assert.ok(Number(error.headers.get("retry-after")) >= 1);
  assert.equal(error.code, "rate_limit_exceeded");
});

for (const script of [
  "status-503",
  "comments-then-error",
  "comments-then-cut",
  "empty-stream",
  "no-stream",
  "html",
]) {
  test(`${script} before the first word has a true status`, async () => {
    const model = scripted(script);
    const call = ask(faults, model.name, { stream: true });
    const error = await caught(call, OpenAI.InternalServerError);
    assert.deepEqual([error.status, error.code], [502, "upstream_error"]);
    assert.equal(await model.hits(), 2);
  });
}

test("a large reply that is cut raises", async () => {
  const once = faults.withOptions({ maxRetries: 0 });
  await assert.rejects(ask(once, scripted("half-of-a-large-body").name));
});

test("what comes compressed unasked arrives, and raises where it is cut", async () => {
  const model = scripted("gzip").name;
  assert.equal((await ask(faults, model)).choices[0].message.content, "Whole");
  const read = async (model) => {
    const said = [];
    const stream = await ask(faults, model, { stream: true });
    for await (const chunk of stream) said.push(chunk.choices[0].delta.content);
    return said[0];
  };
  assert.equal(await read(model), "Whole");
  await assert.rejects(read(scripted("gzip-cut").name), OpenAI.APIError);
});

test("a silent upstream is a gateway timeout", async () => {
  const error = await caught(ask(faults, scripted("hang").name), OpenAI.InternalServerError);
  assert.deepEqual([error.status, error.code], [504, "upstream_timeout"]);
});

test("a client that gives up first gets its own timeout", async () => {
  const hasty = faults.withOptions({ timeout: 500, maxRetries: 0 });
  await caught(ask(hasty, scripted("hang").name), OpenAI.APIConnectionTimeoutError);
});

test("a gateway that is not there is a connection error", async () => {
  const closed = createServer();
  await new Promise((done) => closed.listen(0, "127.0.0.1", done));
  const { port } = closed.address();
  await new Promise((done) => closed.close(done));
  const nobody = faults.withOptions({ baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0 });
  await caught(ask(nobody, "origin/echo"), OpenAI.APIConnectionError);
});

for (const script of [
  "error-mid-stream",
  "truncated",
  "cut",
  "cut-in-an-event",
  "short-chunk-mid-stream",
  "garbled",
  "stalled",
]) {
  test(`a stream that is ${script} raises after what it said`, async () => {
    const said = [];
    const read = async () => {
      const stream = await ask(faults, scripted(script).name, { stream: true });
      for await (const chunk of stream) said.push(chunk.choices[0].delta.content);
    };
    await caught(read(), OpenAI.APIError);
    assert.ok(said.join("").startsWith("Half a"));
  });

  // `response.failed` is an event that this SDK hands on.
  if (script === "error-mid-stream") continue;
  test(`a response that is ${script} raises after what it said`, async () => {
    const said = [];
    const read = async () => {
      const asked = { model: scripted(script).name, input: "Where is Oslo?", stream: true };
      for await (const event of await faults.responses.create(asked)) said.push(event.type);
    };
    await caught(read(), OpenAI.APIError);
    assert.equal(said.at(-1), "response.output_text.delta");
  });
}

test("a stream that said why it stopped is whole", async () => {
  const asked = { stream: true };
  const finishes = [];
  const stream = await ask(faults, scripted("cut-after-the-last-word").name, asked);
  for await (const chunk of stream) finishes.push(chunk.choices[0].finish_reason);
  assert.deepEqual(finishes, [null, "stop"]);
});

test("what the client sent is what the upstream gets", async () => {
  const reply = await ask(faults, "origin/echo", { zest: { deep: [1, "ø"] } });
  const seen = JSON.parse(reply.choices[0].message.content);
  assert.deepEqual(seen.body, { model: "origin/echo", messages, zest: { deep: [1, "ø"] } });
  assert.equal(seen.headers.authorization, `Bearer ${process.env.INTEROP_UPSTREAM_KEY}`);
  assert.deepEqual(reply.novelty, { x: [1] });
});
