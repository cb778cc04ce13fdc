// A page in headless Chromium, served from an origin of its own, that uses the OpenAI SDK through
// the gateway. CHROMIUM names the browser; the runner skips this file where there is none.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const { CHROMIUM, INTEROP_DEMO, INTEROP_DEMO_KEY } = process.env;
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
// Milliseconds for all that the page does.
const PATIENCE = 45_000;

async function script() {
  const page = fileURLToPath(new URL("page.js", import.meta.url));
  const built = await build({ entryPoints: [page], bundle: true, format: "esm", write: false });
  return built.outputFiles[0].text;
}

/** Serves the page on a free port of the loopback. */
async function serve(body) {
  const settings = JSON.stringify({ base: INTEROP_DEMO, key: INTEROP_DEMO_KEY });
  const page = `<!doctype html><meta charset="utf-8"><script>window.settings=${settings}</script>
    <script type="module" src="/page.js"></script>`;
  const server = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    const type = `text/${isScript ? "javascript" : "html"}; charset=utf-8`;
    response.writeHead(200, { "content-type": type }).end(isScript ? body : page);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

/** What the page found, and what the browser complained about meanwhile. */
async function visit(address) {
  const profile = await mkdtemp(join(tmpdir(), "interop-browser-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    args: FLAGS,
  });
  try {
    const page = await browser.newPage();
    const complaints = [];
    page.on("console", (line) => complaints.push(line.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(address);
    const timeout = PATIENCE;
    await page.waitForFunction("window.results", undefined, { timeout }).catch((error) => {
      throw new Error([error.message, ...complaints].join("\n"));
    });
    return { results: await page.evaluate("window.results"), complaints };
  } finally {
    await browser.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

test("the OpenAI SDK in a page of another origin", async (t) => {
  const server = await serve(await script());
  t.after(() => server.close());
  const { results, complaints } = await visit(`http://127.0.0.1:${server.address().port}/`);
  const said = "You said: “Where is Oslo?”. I am demo/chat, a simulation, so I ";

  await t.test("lists the models", () => {
    assert.ok(results.models.includes?.("demo/chat"), JSON.stringify([results.models, complaints]));
  });
  await t.test("gets a plain answer and reads the gateway's headers", () => {
    assert.equal(results.plain.said, said, JSON.stringify(results.plain));
    assert.match(results.plain.requestId, /^req-/);
    assert.match(results.plain.upstream, /^demo-/);
  });
  await t.test("gets a streamed answer in pieces", () => {
    assert.equal(results.streamed.said, said, JSON.stringify(results.streamed));
    assert.ok(results.streamed.pieces >= 12);
  });
  await t.test("is told when a stream breaks", () => {
    assert.ok(results.broken.isApiError, JSON.stringify(results.broken));
  });
  await t.test("can read why it was refused", () => {
    const { requestId, ...refusal } = results.refused;
    assert.deepEqual(refusal, { kind: true, status: 401, code: "invalid_api_key" });
    assert.match(requestId, /^req-/);
  });
});
