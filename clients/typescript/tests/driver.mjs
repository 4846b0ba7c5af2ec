// Drives the client for the shared scenarios: clients/scenarios/README.md says how it is spoken to.
import { createInterface } from "node:readline";
import { ApiError, BambooClient, ConnectionError, RunFailedError, textOf } from "../dist/index.js";

const CONTROLS = new Set(["open", "heartbeat", "goodbye"]);

let client;
let runs = new Map();
let readings = new Map();

/** What is read in the background, and who waits for something in it. */
class Reading {
  events = [];
  messages = [];
  goodbye = null;
  ended = false;
  error = undefined;
  #waiting = new Set();

  constructor(stop) {
    this.stop = stop;
  }

  changed() {
    for (const look of this.#waiting) look();
  }

  /** Wait until `holds`; an error of the reading ends every waiting. */
  until(holds) {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!holds() && this.error === undefined) return;
        this.#waiting.delete(look);
        if (holds()) resolve();
        else reject(this.error);
      };
      this.#waiting.add(look);
      look();
    });
  }

  get seen() {
    const { events, messages, goodbye } = this;
    return { events, messages, goodbye };
  }
}

function streamed(stream) {
  const reading = new Reading(() => stream.close());
  (async () => {
    try {
      for await (const event of stream) {
        if (!CONTROLS.has(event.type)) reading.events.push(event);
        reading.changed();
      }
      reading.goodbye = stream.goodbye ?? null;
      reading.ended = true;
    } catch (error) {
      reading.error = error;
    }
    reading.changed();
  })();
  return reading;
}

function followed(sessionId) {
  // An event counts as seen once what came of it is shown.
  const applied = [];
  const live = client.session(sessionId).follow({ onEvent: (event) => applied.push(event) });
  const reading = new Reading(() => live.stop());
  live.subscribe(() => {
    const { messages, status, connection, error } = live.getSnapshot();
    for (const event of applied.splice(0)) {
      if (!CONTROLS.has(event.type)) reading.events.push(event);
      if (event.type === "goodbye") reading.goodbye = event.reason;
    }
    reading.messages = messages;
    if (status === "error") reading.error = error;
    reading.ended = connection === "ended";
    reading.changed();
  });
  live.start();
  return reading;
}

const named = (name) => runs.get(name);
const session = (id) => client.session(id);

function accepted(name, answer) {
  runs.set(name, answer);
  const { session_id, run_id } = answer;
  return { session_id, run_id };
}

const waited = async ({ session_id: id, run_id: runId }) => session(id).wait(runId);

const verbs = {
  connect({ url, api_key, retry_seconds_max, silence_seconds, attempts }) {
    for (const reading of readings.values()) reading.stop();
    runs = new Map();
    readings = new Map();
    const options = { baseUrl: url };
    if (api_key !== undefined) options.token = api_key;
    if (attempts !== undefined) options.attempts = attempts;
    if (silence_seconds !== undefined) options.silenceMs = silence_seconds * 1000;
    if (retry_seconds_max !== undefined) options.backoff = { maxMs: retry_seconds_max * 1000 };
    client = new BambooClient(options);
    return {};
  },
  create: ({ session: id, ...input }) => client.createSession({ id, ...input }),
  session: ({ session: id }) => session(id).info(),
  async list({ page_size: limit, ...filters }) {
    const ids = [];
    const query = limit === undefined ? filters : { ...filters, limit };
    for await (const one of client.allSessions(query)) ids.push(one.id);
    return { ids };
  },
  async delete({ session: id }) {
    await session(id).delete();
    return {};
  },
  async chat({ session: id, message, as, options, files, edit_message_id }) {
    const parts = (files ?? []).map((file_id) => ({ type: "file", file_id }));
    const content = [{ type: "text", text: message }, ...parts];
    const said = parts.length > 0 ? { role: "user", content } : message;
    const given = {};
    if (options !== undefined) given.options = options;
    if (id === undefined) return accepted(as, await client.chat(said, given));
    if (edit_message_id === undefined) return accepted(as, await session(id).chat(said, given));
    return accepted(as, await session(id).edit(edit_message_id, said, given));
  },
  async regenerate({ session: id, message_id, as, options }) {
    const input = {};
    if (message_id !== undefined) input.message_id = message_id;
    if (options !== undefined) input.options = options;
    return accepted(as, await session(id).regenerate(input));
  },
  answer: async ({ session: id, answers, as }) => accepted(as, await session(id).answer(answers)),
  async wait({ as }) {
    const { status, message } = await waited(named(as));
    return { status, text: message ? textOf(message) : "" };
  },
  async text({ as }) {
    const run = await waited(named(as));
    if (run.status !== "completed") throw new RunFailedError(run);
    return { text: run.message ? textOf(run.message) : "" };
  },
  async run_events({ as }) {
    const run = named(as);
    const events = [];
    for await (const event of session(run.session_id).streamRun(run)) {
      if (!CONTROLS.has(event.type)) events.push(event);
    }
    return { events };
  },
  async cancel({ as }) {
    const { session_id: id, run_id: runId } = named(as);
    const { status } = await session(id).cancelRun(runId);
    return { status };
  },
  inputs: async ({ session: id }) => ({ inputs: await session(id).inputs() }),
  branches: async ({ session: id }) => ({ branches: await session(id).branches() }),
  async select({ session: id, branch_id }) {
    await session(id).select(branch_id);
    return {};
  },
  async messages({ session: id, page_size: limit }) {
    const messages = [];
    const query = limit === undefined ? {} : { limit };
    for await (const message of session(id).allMessages(query)) messages.push(message);
    return { messages };
  },
  upload: ({ text, name, media_type: mediaType }) => client.upload(text, { name, mediaType }),
  download: async ({ file_id }) => ({ text: await (await client.download(file_id)).text() }),
  stream({ as, session: id, after, from_start, until_complete, run_id }) {
    const options = {};
    if (after !== undefined) options.after = after;
    if (from_start) options.from = "start";
    if (until_complete) options.until = "complete";
    if (run_id !== undefined) options.run_id = run_id;
    readings.set(as, streamed(session(id).stream(options)));
    return {};
  },
  joint({ as, sessions }) {
    readings.set(as, streamed(client.streamSessions(sessions, { from: "start" })));
    return {};
  },
  changes({ as, after }) {
    readings.set(as, streamed(client.streamChanges(after === undefined ? {} : { after })));
    return {};
  },
  follow({ as, session: id }) {
    readings.set(as, followed(id));
    return {};
  },
  async saw({ as, type, count = 1, session: id }) {
    const reading = readings.get(as);
    const fits = (event) =>
      (type === undefined || event.type === type) && (id === undefined || event.session_id === id);
    await reading.until(() => reading.events.filter(fits).length >= count);
    return {};
  },
  async shows({ as, text, status }) {
    const reading = readings.get(as);
    await reading.until(() => {
      const last = reading.messages.at(-1);
      const fits = last !== undefined && textOf(last) === text;
      return fits && (status === undefined || last.status === status);
    });
    return {};
  },
  async ended({ as }) {
    const reading = readings.get(as);
    await reading.until(() => reading.ended);
    return reading.seen;
  },
  read: ({ as }) => readings.get(as).seen,
  stop({ as }) {
    const reading = readings.get(as);
    reading.stop();
    return reading.seen;
  },
};

function told(error) {
  if (error instanceof ApiError) {
    return { kind: "problem", status: error.status, code: error.code };
  }
  if (error instanceof ConnectionError) return { kind: "unreachable", detail: error.message };
  if (error instanceof RunFailedError) {
    const { status } = error.run;
    return { kind: "run_failed", status, code: error.run.error?.code ?? null };
  }
  return { kind: "other", detail: String(error?.stack ?? error) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: verb, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { id, value: await verbs[verb](given) };
  } catch (error) {
    answer = { id, error: told(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
for (const reading of readings.values()) reading.stop();
