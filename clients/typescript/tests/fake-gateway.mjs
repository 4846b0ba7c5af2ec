// A gateway in memory, for faults that a network makes too rarely: it is the client's `fetch`.
import { BambooClient } from "../dist/index.js";

const encoder = new TextEncoder();

export class FakeGateway {
  /** What it was asked: `{ method, path, query, headers, body }`. */
  asked = [];
  #answers;

  /** @param answers Called with each request; returns a Response, or throws as a broken network does. */
  constructor(answers) {
    this.#answers = answers;
  }

  client(options = {}) {
    const backoff = { minMs: 1, maxMs: 2 };
    return new BambooClient({ baseUrl: "http://gateway", backoff, ...options, fetch: this.fetch });
  }

  fetch = async (url, init) => {
    const { pathname, searchParams } = new URL(url);
    const request = {
      method: init.method,
      path: pathname.replace("/api/v1", ""),
      query: Object.fromEntries(searchParams),
      headers: Object.fromEntries(init.headers),
      body: init.body,
      signal: init.signal,
    };
    this.asked.push(request);
    init.signal?.throwIfAborted();
    return this.#answers(request, this.asked.length - 1);
  };
}

export const json = (value, status = 200, headers = {}) =>
  new Response(JSON.stringify(value), {
    status,
    headers: { "Content-Type": "application/json", ...headers },
  });

export const problem = (status, code, headers = {}, retryable = false) =>
  json({ status, code, title: code, detail: code, type: "", instance: "", retryable }, status, headers);

export const frame = (id, event) => `id: ${id}\ndata: ${JSON.stringify(event)}\n\n`;

/**
 * A stream that sends these texts; then it ends, breaks (`"broken"`), or stays silent (`"silent"`).
 * A `fetch` whose signal aborts ends its body, too.
 */
export function stream(texts, end = "ended", signal = undefined) {
  const pieces = texts.map((text) => (typeof text === "string" ? encoder.encode(text) : text));
  const body = new ReadableStream({
    start(controller) {
      signal?.addEventListener("abort", () => {
        try {
          controller.error(signal.reason);
        } catch {
          // It has ended before.
        }
      });
    },
    pull(controller) {
      const piece = pieces.shift();
      if (piece !== undefined) {
        if (piece.length > 0) controller.enqueue(piece);
        else return this.pull(controller);
      } else if (end === "broken") controller.error(new TypeError("terminated"));
      else if (end === "ended") controller.close();
      else return new Promise(() => undefined);
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

export async function collect(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}
