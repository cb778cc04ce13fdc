// Clients of the two gateways that the runner started: the demonstration, and one with faults.

import Anthropic from "@anthropic-ai/sdk";
import { randomUUID } from "node:crypto";
import OpenAI from "openai";

const {
  INTEROP_DEMO,
  INTEROP_DEMO_KEY,
  INTEROP_FAULTS,
  INTEROP_KEY,
  INTEROP_NARROW_KEY,
  INTEROP_ORIGIN,
} = process.env;

// Milliseconds until the header; the gateway gives up on an upstream long before.
const timeout = 20_000;

const openai = (host, apiKey) => new OpenAI({ baseURL: `${host}/v1`, apiKey, timeout });
export const demo = openai(INTEROP_DEMO, INTEROP_DEMO_KEY);
export const faults = openai(INTEROP_FAULTS, INTEROP_KEY);
export const narrow = faults.withOptions({ apiKey: INTEROP_NARROW_KEY });
export const claude = new Anthropic({ baseURL: INTEROP_DEMO, apiKey: INTEROP_DEMO_KEY, timeout });

export const claudeFaults = new Anthropic({ baseURL: INTEROP_FAULTS, apiKey: INTEROP_KEY, timeout });

export const messages = [{ role: "user", content: "Where is Oslo?" }];
export const opening = "You said: “Where is Oslo?”.";

/** A model of the origin whose calls are counted apart from those of every other test. */
export function scripted(script) {
  const name = `origin/${script}@${randomUUID().slice(0, 8)}`;
  const hits = async () => {
    const reply = await fetch(`${INTEROP_ORIGIN}/hits?model=${encodeURIComponent(name)}`);
    return (await reply.json()).hits;
  };
  return { name, hits };
}
