import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, InvalidError, ProtocolError, RateLimitedError, RunFailedError } from "../dist/index.js";
import { FakeGateway, json, problem } from "./fake-gateway.mjs";

const JSON_TYPE = { "Content-Type": "application/json" };
const ACCEPTED = { session_id: "s", run_id: "run_1", position: "7-0", status: "running" };

test("a chat is sent again with the same key until its answer is there", async () => {
  const gateway = new FakeGateway((_, call) => {
    if (call === 0) throw new TypeError("fetch failed");
    if (call === 1) return new Response('{"run_', { status: 202, headers: JSON_TYPE });
    if (call === 2) return problem(503, "draining", {}, true);
    return json(ACCEPTED, 202);
  });
  assert.deepEqual(await gateway.client().session("s").chat("Hello"), ACCEPTED);
  assert.equal(gateway.asked.length, 4);
  const keys = new Set(gateway.asked.map(({ headers }) => headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.equal(new Set(gateway.asked.map(({ body }) => body)).size, 1);
  await gateway.client().session("s").chat("Hello");
  assert.ok(!keys.has(gateway.asked.at(-1).headers["idempotency-key"]));
});

test("a POST without a key is sent once", async () => {
  const gateway = new FakeGateway(() => problem(503, "draining", {}, true));
  await assert.rejects(gateway.client().request("POST", "/cleanup", { json: {} }));
  assert.equal(gateway.asked.length, 1);
});

test("attempts are limited, and a refusal is not repeated", async () => {
  const down = new FakeGateway(() => {
    throw new TypeError("fetch failed");
  });
  await assert.rejects(down.client({ attempts: 3 }).session("s").info(), ConnectionError);
  assert.equal(down.asked.length, 3);
  const refusing = new FakeGateway(() => problem(422, "invalid-request"));
  const error = await refusing.client().session("s").info().catch((reason) => reason);
  assert.ok(error instanceof InvalidError);
  assert.deepEqual([error.code, error.status, error.retryable], ["invalid-request", 422, false]);
  assert.equal(refusing.asked.length, 1);
});

test("429 is waited for as long as Retry-After says, unless that is very long", async () => {
  const gateway = new FakeGateway((_, call) =>
    call === 0 ? problem(429, "rate-limited", { "Retry-After": "0" }) : json({ id: "s" }),
  );
  assert.deepEqual(await gateway.client().session("s").info(), { id: "s" });
  const tomorrow = new FakeGateway(() => problem(429, "budget-reached", { "Retry-After": "86400" }));
  const error = await tomorrow.client().session("s").chat("x").catch((reason) => reason);
  assert.ok(error instanceof RateLimitedError);
  assert.equal(error.retryAfterMs, 86_400_000);
  assert.equal(tomorrow.asked.length, 1);
});

test("an answer that is no problem document is an error all the same", async () => {
  const gateway = new FakeGateway(() => new Response("<html>", { status: 404 }));
  const error = await gateway.client().session("s").info().catch((reason) => reason);
  assert.deepEqual([error.status, error.code], [404, "http-404"]);
});

test("a redirect is an error that names the address", async () => {
  const headers = { Location: "https://elsewhere" };
  const gateway = new FakeGateway(() => new Response(null, { status: 308, headers }));
  const error = await gateway.client().session("s").chat("x").catch((reason) => reason);
  assert.match(error.message, /http:\/\/gateway.* redirects/);
  assert.equal(gateway.asked.length, 1);
});

test("a page instead of an answer is no gateway, and is asked once", async () => {
  const page = new FakeGateway(() => new Response("<html>", { headers: { "Content-Type": "text/html" } }));
  await assert.rejects(page.client().session("s").info(), ProtocolError);
  await assert.rejects(page.client().session("s").chat("x"), ProtocolError);
  assert.equal(page.asked.length, 2);
});

test("an id never leads to another route", async () => {
  const gateway = new FakeGateway(() => json({ session_id: "s" }));
  const client = gateway.client();
  for (const id of ["a/../../files", "a?limit=1", "a#b", "%2e"]) {
    await client.session(id).delete();
    await client.deleteFile(id);
    await client.session("s").select(id);
  }
  for (const { path, query } of gateway.asked) {
    assert.match(path, /^\/(sessions|files)\/[^/]+(\/branches\/[^/]+\/select)?$/);
    assert.deepEqual(query, {});
  }
  for (const id of ["", ".", ".."]) {
    assert.throws(() => client.session(id), TypeError);
    assert.throws(() => client.deleteFile(id), TypeError);
  }
});

test("a deletion whose answer was lost is a deletion", async () => {
  const gateway = new FakeGateway((_, call) => {
    if (call === 0) throw new TypeError("fetch failed");
    return problem(404, "session-not-found");
  });
  await gateway.client().session("s").delete();
  await assert.rejects(gateway.client().session("s").delete(), { status: 404 });
});

test("a request that takes too long is lost, and an abort is its caller's", async () => {
  const hang = ({ signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const gateway = new FakeGateway(hang);
  const client = gateway.client({ timeoutMs: 5, attempts: 2 });
  await assert.rejects(client.session("s").info(), ConnectionError);
  assert.equal(gateway.asked.length, 2);
  const controller = new AbortController();
  const waiting = gateway.client().session("s").info({ signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  await assert.rejects(waiting, reason);
});

test("wait asks again until the run has ended, and ask throws what went wrong", async () => {
  const error = { code: "agent-error", message: "It broke." };
  const gateway = new FakeGateway(({ method }, call) => {
    if (method === "POST") return json(ACCEPTED, 202);
    return json({ run_id: "run_1", status: call < 3 ? "running" : "failed", error });
  });
  const failed = await gateway.client().session("s").ask("x").catch((reason) => reason);
  assert.ok(failed instanceof RunFailedError);
  assert.deepEqual([failed.code, failed.message], ["agent-error", "It broke."]);
  assert.ok(gateway.asked.slice(1).every(({ headers }) => headers.prefer === "wait=60"));
});

test("credentials are where the gateway looks for them", async () => {
  const gateway = new FakeGateway(() => json({}));
  await gateway.client({ token: "key", userId: "alice" }).session("a b").info();
  await gateway.client({ ticket: async () => "t1" }).session("s").info();
  await gateway.client({ share: "s1" }).session("s").info();
  const [key, ticket, share] = gateway.asked;
  assert.equal(key.path, "/sessions/a%20b");
  assert.equal(key.headers.authorization, "Bearer key");
  assert.equal(key.headers["x-user-id"], "alice");
  assert.deepEqual(ticket.query, { ticket: "t1" });
  assert.deepEqual(share.query, { share: "s1" });
});

test("a function for the credential is asked once for many requests", async () => {
  let made = 0;
  const gateway = new FakeGateway(() => json({}));
  const client = gateway.client({ token: async () => `key-${(made += 1)}` });
  await Promise.all([1, 2, 3].map(() => client.session("s").info()));
  assert.equal(made, 1);
});
