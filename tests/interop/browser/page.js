// What a page of another origin does with the gateway; the test reads `window.results`.

import OpenAI from "openai";

const { base, key } = window.settings;
const client = (apiKey) =>
  new OpenAI({ baseURL: `${base}/v1`, apiKey, dangerouslyAllowBrowser: true, maxRetries: 0 });
const asked = {
  model: "demo/chat",
  messages: [{ role: "user", content: "Where is Oslo?" }],
  max_tokens: 12,
};

async function models() {
  return (await client(key).models.list()).data.map((model) => model.id);
}

async function plain() {
  const call = client(key).chat.completions.create(asked);
  const { data, response } = await call.withResponse();
  return {
    said: data.choices[0].message.content,
    requestId: response.headers.get("x-request-id"),
    upstream: response.headers.get("x-cirque-upstream"),
  };
}

async function streamed() {
  const stream = await client(key).chat.completions.create({ ...asked, stream: true });
  let [said, pieces] = ["", 0];
  for await (const chunk of stream) {
    said += chunk.choices[0].delta.content ?? "";
    pieces += 1;
  }
  return { said, pieces };
}

async function broken() {
  const stream = await client(key).chat.completions.create({
    ...asked,
    model: "demo/cut-mid-stream",
    max_tokens: undefined,
    stream: true,
  });
  try {
    for await (const chunk of stream) void chunk;
  } catch (error) {
    return { isApiError: error instanceof OpenAI.APIError, message: error.message };
  }
  return { isApiError: false, message: "ended as if all were well" };
}

async function refused() {
  try {
    return { answer: await client("sk-wrong").chat.completions.create(asked) };
  } catch (error) {
    return {
      kind: error instanceof OpenAI.AuthenticationError,
      status: error.status,
      code: error.code,
      requestId: error.requestID,
    };
  }
}

const steps = { models, plain, streamed, broken, refused };
const results = {};
for (const [name, step] of Object.entries(steps)) {
  results[name] = await step().catch((error) => ({ failed: `${error.name}: ${error.message}` }));
}
window.results = results;
