import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, NotFoundError, ProtocolError, UnauthorizedError } from "../dist/index.js";
import { collect, FakeGateway, frame, json, problem, stream } from "./fake-gateway.mjs";

const encoder = new TextEncoder();
const RUN = "run_1";
const LOG = [
  { type: "run_start", run_id: RUN, agent: "demo", message_ids: ["m"] },
  { type: "token", run_id: RUN, message_id: "a", content: "Café 京都 " },
  { type: "token", run_id: RUN, message_id: "a", content: "👍" },
  { type: "complete", run_id: RUN, finish_reason: "stop" },
].map((event, at) => ({ ...event, seq: at + 1, time: "" }));

const open = (after) =>
  `retry: 1\n${frame(after, { type: "open", session_id: "s", connection_id: "c", position: after, active_run_id: null })}`;

/** The bytes of a stream that begins after a position. */
function bytesAfter(after) {
  const seen = Number(after.split("-")[1]);
  const frames = LOG.slice(seen).map((event) => frame(`7-${event.seq}`, event));
  return encoder.encode(`\uFEFF${open(after)}: ping\n${frames.join("")}`);
}

const untilComplete = { after: "7-0", until: "complete" };
const logged = (events) => events.filter((event) => event.seq !== undefined);

test("a stream that is cut at any byte, broken or ended, hands out each event once", async () => {
  const whole = bytesAfter("7-0");
  for (const end of ["broken", "ended"]) {
    for (let cut = 0; cut < whole.length; cut += 1) {
      const gateway = new FakeGateway(({ query, signal }, call) => {
        if (query.after === "7-4") return new Response(null, { status: 204 });
        const bytes = bytesAfter(query.after);
        return call === 0 ? stream([bytes.subarray(0, cut)], end) : stream([bytes], "silent", signal);
      });
      const events = await collect(gateway.client().session("s").stream(untilComplete));
      assert.deepEqual(logged(events), LOG, `${end} at ${cut}`);
    }
  }
});

test("a frame that comes twice is handed out once", async () => {
  const frames = LOG.map((event) => frame(`7-${event.seq}`, event));
  const twice = frames.flatMap((one) => [one, one]);
  const gateway = new FakeGateway(() => stream([open("7-0"), ...twice]));
  const events = await collect(gateway.client().session("s").stream(untilComplete));
  assert.deepEqual(logged(events), LOG);
});

test("after a loss the run is named, so that the stream does not wait for the next one", async () => {
  const gateway = new FakeGateway(({ query }, call) =>
    call === 0
      ? stream([open("7-0"), frame("7-1", LOG[0])], "broken")
      : new Response(null, { status: query.run_id === RUN ? 204 : 500 }),
  );
  await collect(gateway.client().session("s").stream(untilComplete));
  assert.deepEqual(gateway.asked[1].query, { after: "7-1", until: "complete", run_id: RUN });
});

test("a queued run that is cancelled does not end a stream until the run is complete", async () => {
  const cancelled = { type: "cancelled", seq: 1, time: "", run_id: "queued", reason: "" };
  const rest = LOG.map((event) => ({ ...event, seq: event.seq + 1 }));
  const frames = [cancelled, ...rest].map((event) => frame(`7-${event.seq}`, event));
  const gateway = new FakeGateway(() => stream([open("7-0"), ...frames]));
  const events = await collect(gateway.client().session("s").stream(untilComplete));
  assert.equal(logged(events).at(-1).type, "complete");
});

test("goodbye with retry reconnects, and goodbye without it ends the stream", async () => {
  const gateway = new FakeGateway((_, call) => {
    const reason = ["shutdown", "lifetime", "deleted"][call];
    return stream([open("7-0"), frame("7-0", { type: "goodbye", reason, retry: call < 2 })]);
  });
  const reading = gateway.client().session("s").stream();
  const events = await collect(reading);
  assert.deepEqual(events.map((event) => event.type), ["open", "open", "open", "goodbye"]);
  assert.equal(reading.goodbye, "deleted");
});

test("after a reset the stream goes on from where the reset says", async () => {
  const reset = { type: "reset", reason: "epoch_changed", position: "9-5" };
  const later = { type: "custom", name: "n", value: 1, seq: 6, time: "" };
  const gateway = new FakeGateway((_, call) => {
    if (call === 0) return stream([open("0-0"), frame("9-5", reset)], "broken");
    return stream([open("9-5"), frame("9-6", later), frame("9-6", { type: "goodbye", retry: false })]);
  });
  const events = await collect(gateway.client().session("s").stream({ after: "7-900" }));
  assert.deepEqual(events.map((event) => event.type), ["open", "reset", "open", "custom", "goodbye"]);
  assert.equal(gateway.asked[1].query.after, "9-5");
});

test("a stream that is silent for too long is lost, also one that never answers", async () => {
  const gateway = new FakeGateway(({ signal }, call) => {
    if (call === 0) {
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    if (call === 1) return stream([open("7-0")], "silent", signal);
    return new Response(null, { status: 204 });
  });
  const states = [];
  const onConnection = (state, error) => states.push([state, error instanceof ConnectionError]);
  await collect(gateway.client({ silenceMs: 20 }).session("s").stream({ onConnection }));
  assert.deepEqual(states, [
    ["connecting", false],
    ["reconnecting", true],
    ["open", false],
    ["reconnecting", true],
    ["ended", false],
  ]);
});

test("a slow reader is not taken for a silent stream", async () => {
  const gateway = new FakeGateway(() => stream([bytesAfter("7-0")]));
  const reading = gateway.client({ silenceMs: 5 }).session("s").stream(untilComplete);
  const events = [];
  for await (const event of reading) {
    await new Promise((resolve) => setTimeout(resolve, 12));
    events.push(event);
  }
  assert.deepEqual(logged(events), LOG);
  assert.equal(gateway.asked.length, 1);
});

test("while no gateway answers it tries again, and Retry-After is obeyed", async () => {
  const gateway = new FakeGateway((_, call) => {
    if (call === 0) throw new TypeError("fetch failed");
    if (call === 1) return problem(503, "draining", {}, true);
    if (call === 2) return problem(429, "too-many-streams", { "Retry-After": "0" });
    if (call === 3) return stream([open("7-0")]);
    // Of a network that wants a login first, for example.
    if (call === 4) return new Response("<html>", { headers: { "Content-Type": "text/html" } });
    return new Response(null, { status: 204 });
  });
  await collect(gateway.client().session("s").stream());
  assert.equal(gateway.asked.length, 6);
});

test("a refusal that waiting does not change is thrown", async () => {
  const gateway = new FakeGateway(() => problem(404, "session-not-found"));
  await assert.rejects(collect(gateway.client().session("s").stream()), NotFoundError);
});

test("what is no stream of events ends the loop, since waiting does not change it", async () => {
  const answers = [
    () => new Response("<html>", { headers: { "Content-Type": "text/html" } }),
    () => json({}),
    () => stream(["data: <html>\n\n"]),
    () => stream(["data: 5\n\n"]),
    () => stream(["data: null\n\n"]),
  ];
  for (const answer of answers) {
    const gateway = new FakeGateway(answer);
    const reading = collect(gateway.client().session("s").stream(untilComplete));
    await assert.rejects(reading, ProtocolError);
    assert.equal(gateway.asked.length, 1);
  }
});

test("a credential function is asked again after a 401 and after goodbye unauthorized, no oftener", async () => {
  let made = 0;
  const gateway = new FakeGateway(({ headers }) => {
    if (headers.authorization === "Bearer 1") return problem(401, "unauthorized");
    const goodbye = frame("7-0", { type: "goodbye", reason: "unauthorized", retry: true });
    if (headers.authorization === "Bearer 2") return stream([open("7-0"), goodbye]);
    return new Response(null, { status: 204 });
  });
  const client = gateway.client({ token: async () => String((made += 1)) });
  await collect(client.session("s").stream());
  assert.equal(made, 3);
  const refusing = new FakeGateway(() => problem(401, "unauthorized"));
  const refused = refusing.client({ token: () => "t" }).session("s").stream();
  await assert.rejects(collect(refused), UnauthorizedError);
  assert.equal(refusing.asked.length, 2);
});

test("a credential function's own error is its caller's", async () => {
  const own = new RangeError("log in again");
  const token = () => {
    throw own;
  };
  const gateway = new FakeGateway(() => json({}));
  await assert.rejects(gateway.client({ token }).session("s").info(), own);
  await assert.rejects(collect(gateway.client({ token }).session("s").stream()), own);
});

test("an abort throws its reason, close ends quietly, and both cut the connection", async () => {
  let cut = 0;
  const gateway = new FakeGateway(({ signal }) => {
    signal.addEventListener("abort", () => (cut += 1));
    return stream([open("7-0")], "silent", signal);
  });
  const session = gateway.client().session("s");
  const controller = new AbortController();
  const reason = new Error("enough");
  const aborted = async () => {
    for await (const _ of session.stream({ signal: controller.signal })) controller.abort(reason);
  };
  await assert.rejects(aborted, reason);
  const closed = session.stream();
  for await (const _ of closed) closed.close();
  for await (const _ of session.stream()) break;
  assert.equal(cut, 3);
});

test("a page that comes online does not wait, and one that goes offline drops its connection", async () => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  const tell = (name) => setTimeout(() => page.dispatchEvent(new Event(name)), 5);
  try {
    const gateway = new FakeGateway(({ signal }, call) => {
      if (call === 0) throw new TypeError("offline");
      if (call < 3) return stream([open("7-0")], "silent", signal);
      return new Response(null, { status: 204 });
    });
    const hour = 3_600_000;
    const client = gateway.client({ backoff: { minMs: hour, maxMs: hour } });
    const states = [];
    const onConnection = (state) => {
      states.push(state);
      if (state === "reconnecting") tell("online");
      if (state === "open") tell(states.length === 3 ? "offline" : "online");
    };
    await collect(client.session("s").stream({ onConnection }));
    const lost = ["reconnecting", "open"];
    assert.deepEqual(states, ["connecting", ...lost, ...lost, "reconnecting", "ended"]);
    assert.equal(gateway.asked.length, 4);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test("a joint stream goes on when one of its sessions has ended", async () => {
  const gone = { type: "goodbye", session_id: "a", reason: "deleted", retry: false };
  const later = { type: "custom", session_id: "b", name: "n", value: 1, seq: 2, time: "" };
  const gateway = new FakeGateway((_, call) =>
    call === 0
      ? stream([frame("cursor1", gone), frame("cursor2", later)])
      : new Response(null, { status: 204 }),
  );
  const events = await collect(gateway.client().streamSessions(["a", "b@7-1"]));
  assert.deepEqual(events, [gone, later]);
  assert.equal(gateway.asked[1].query.after, "cursor2");
});
