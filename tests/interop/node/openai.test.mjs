// The official OpenAI SDK through `cirque demo`: what works must just work.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { demo, messages, opening } from "./gateways.mjs";

const tide = {
  name: "tide",
  description: "High water",
  parameters: { type: "object", properties: { port: { type: "string" } } },
};
const tideQuestion = [{ role: "user", content: "How high is the tide in Bergen?" }];

async function text(stream) {
  let said = "";
  for await (const chunk of stream) said += chunk.choices[0].delta.content ?? "";
  return said;
}

test("a plain chat", async () => {
  const reply = await demo.chat.completions.create({ model: "demo/chat", messages });
  assert.ok(reply.choices[0].message.content.startsWith(opening));
  assert.equal(reply.choices[0].finish_reason, "stop");
  assert.ok(reply.usage.cost > 0);
});

test("a streamed chat says the same", async () => {
  const plain = await demo.chat.completions.create({ model: "demo/chat", messages });
  const stream = demo.chat.completions.stream({ model: "demo/chat", messages });
  const said = await stream.finalContent();
  const same = (words) => words.replaceAll(/demo-(main|spare)/g, "demo-…");
  assert.equal(same(said), same(plain.choices[0].message.content));
});

test("usage comes in its own chunk when asked for", async () => {
  const stream = await demo.chat.completions.create({
    model: "demo/chat",
    messages,
    max_tokens: 5,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
});

test("a tool is called and its result answered", async () => {
  const tools = [{ type: "function", function: tide }];
  const asked = { model: "demo/tools", messages: tideQuestion, tools };
  const reply = await demo.chat.completions.create(asked);
  const { message, finish_reason } = reply.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { port: "Bergen" });
  const streamed = await demo.chat.completions.stream(asked).finalMessage();
  assert.deepEqual(
    streamed.tool_calls[0].function.arguments,
    message.tool_calls[0].function.arguments,
  );
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "06:12" };
  const next = await demo.chat.completions.create({
    ...asked,
    messages: [...tideQuestion, message, result],
  });
  assert.ok(next.choices[0].message.content.startsWith("The tool says: “06:12”."));
});

test("a response, plain and streamed", async () => {
  const plain = await demo.responses.create({ model: "demo/chat", input: "Where is Oslo?" });
  assert.ok(plain.output_text.startsWith(opening));
  const stream = demo.responses.stream({ model: "demo/reasoning", input: "Where is Oslo?" });
  let said = "";
  stream.on("response.output_text.delta", (event) => (said += event.delta));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, said);
  assert.deepEqual(final.output.map((item) => item.type), ["reasoning", "message"]);
});

test("a response parses", async () => {
  const schema = {
    type: "object",
    properties: { name: { type: "string" }, people: { type: "integer" } },
    required: ["name", "people"],
    additionalProperties: false,
  };
  const reply = await demo.responses.parse({
    model: "demo/chat",
    input: "Where is Oslo?",
    text: { format: { type: "json_schema", name: "city", strict: true, schema } },
  });
  assert.deepEqual(JSON.parse(reply.output_text), { name: "Oslo", people: 1 });
});

test("models are listed and found", async () => {
  const ids = [];
  for await (const model of demo.models.list()) ids.push(model.id);
  assert.ok(ids.includes("demo/chat") && ids.includes("demo/embed"));
  const found = await demo.models.retrieve("demo/chat");
  assert.deepEqual([found.id, found.object], ["demo/chat", "model"]);
});

test("embeddings of like texts are alike", async () => {
  const input = ["high tide in Oslo", "low tide in Oslo", "pay your taxes"];
  for (const encoding_format of [undefined, "float"]) {
    const reply = await demo.embeddings.create({ model: "demo/embed", input, encoding_format });
    const [sea, low, tax] = reply.data.map((item) => item.embedding);
    const alike = (one, other) => one.reduce((sum, x, at) => sum + x * other[at], 0);
    assert.ok(Math.abs(alike(sea, sea) - 1) < 1e-4);
    assert.ok(alike(sea, low) > alike(sea, tax) + 0.3);
  }
});

test("a reply carries the gateway's headers", async () => {
  const call = demo.chat.completions.create({ model: "demo/chat", messages, max_tokens: 1 });
  const { response, data, request_id } = await call.withResponse();
  assert.equal(response.headers.get("x-request-id"), request_id);
  assert.equal(data._request_id, request_id);
  assert.match(response.headers.get("x-cirque-upstream"), /^demo-(main|spare)$/);
});

for (const fault of ["fails-503", "fails-429", "refuses-key", "error-in-200"]) {
  test(`${fault} goes unnoticed`, async () => {
    const asked = { model: `demo/${fault}`, messages, max_tokens: 3 };
    const { data, response } = await demo.chat.completions.create(asked).withResponse();
    assert.ok(data.choices[0].message.content.startsWith("You said:"));
    assert.equal(response.headers.get("x-cirque-upstream"), "demo-spare");
    const stream = await demo.chat.completions.create({ ...asked, stream: true });
    assert.ok((await text(stream)).startsWith("You said:"));
  });
}

for (const fault of ["cut-mid-stream", "truncates", "stalls"]) {
  test(`${fault} is never a short answer`, async () => {
    const asked = { model: `demo/${fault}`, messages, stream: true };
    const stream = await demo.chat.completions.create(asked);
    await assert.rejects(text(stream), OpenAI.APIError);
  });
}
