// What a front end does with the types that openapi-typescript makes: it must compile under --strict,
// and run. The gateway's address is its argument; it prints one line of JSON.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.js";

declare const process: { argv: string[]; stdout: { write(text: string): void } };

type LogEvent = components["schemas"]["Event"];
type StreamEvent = components["schemas"]["StreamEvent"];
type Stream = operations["chat"]["responses"][200]["content"]["text/event-stream"];

function never(event: never): never {
  throw new Error(`no such event: ${JSON.stringify(event)}`);
}

/** Every type of event, and what is certain to be in it. */
function describe(event: StreamEvent): string {
  switch (event.type) {
    case "message":
      return `${event.message.role} ${event.message_id}`;
    case "token":
    case "thinking":
      return event.content;
    case "tool_start":
      return `${event.tool_name} ${JSON.stringify(event.arguments)}`;
    case "tool_delta":
      return event.content;
    case "tool_complete":
      return `${event.tool_call_id} ${event.result.success}`;
    case "tool_error":
      return event.error;
    case "run_queued":
      return `${event.run_id} ${event.messages.length}`;
    case "run_start":
      return event.message_ids.join();
    case "complete":
      return `${event.finish_reason} ${event.usage?.total_tokens ?? 0}`;
    case "error":
      return `${event.code} ${event.message}`;
    case "cancelled":
      return event.reason;
    case "state_change":
      return `${event.from} ${event.to}`;
    case "session_created":
    case "session_updated":
      return event.title ?? "";
    case "session_forked":
      return event.child_id;
    case "session_merged":
      return event.source.session_id;
    case "summary_saved":
      return event.summary ?? event.position;
    case "extensions_updated":
      return Object.keys(event.extension_data).join();
    case "input_required":
      return `${event.request_id} ${event.kind} ${event.prompt}`;
    case "input_given":
      return `${event.request_id} ${JSON.stringify(event.answer)}`;
    case "input_closed":
      return `${event.request_id} ${event.reason}`;
    case "branch_started":
      return `${event.branch_id} ${event.from_message_id}`;
    case "branch_selected":
      return event.branch_id;
    case "message_hidden":
      return event.message_id;
    case "run_hidden":
      return event.run_id;
    case "session_shared":
      return event.share.id;
    case "share_revoked":
      return event.share_id;
    case "custom":
      return event.name;
    case "open":
      return event.connection_id;
    case "heartbeat":
      return "";
    case "reset":
      return `${event.reason} ${event.position}`;
    case "goodbye":
      return `${event.reason} ${event.retry}`;
    default:
      return never(event);
  }
}

function eventsOf(stream: Stream): StreamEvent[] {
  const lines = stream.split("\n").filter((line) => line.startsWith("data: "));
  return lines.map((line) => JSON.parse(line.slice("data: ".length)) as StreamEvent);
}

const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });

async function said(prefer: string): Promise<string> {
  const { data, error } = await client.POST("/api/v1/chat", {
    params: { header: { prefer } },
    body: { session_id: "typed", message: "Hello!", options: { delay_ms: 0 } },
  });
  if (error !== undefined) throw new Error(`${error.code}: ${error.detail}`);
  if (typeof data === "string") throw new Error("a stream was not asked for");
  // 200 and 202 have no status in common: it tells which of both this is.
  switch (data.status) {
    case "queued":
    case "running":
      return `accepted ${data.status}`;
    case "completed":
    case "failed":
    case "cancelled":
    case "interrupted":
      return `ended ${data.status} ${data.message?.role ?? ""}`;
  }
}

const waited = await said("wait=60");
const atOnce = await said("wait=0");

const streamed = await client.POST("/api/v1/chat", {
  body: { session_id: "streamed", message: "Hello!", options: { delay_ms: 0 } },
  headers: { Accept: "text/event-stream" },
  parseAs: "text",
});
const events = eventsOf(streamed.data as Stream);

const path = { session_id: "streamed" };
await client.POST("/api/v1/sessions/{session_id}/events", {
  params: { path },
  body: [{ type: "custom", name: "progress", value: { percent: 40 } }],
});
const page = await client.GET("/api/v1/sessions/{session_id}/events", { params: { path } });
const log: LogEvent[] = page.data?.events ?? [];

const unknown = await client.GET("/api/v1/sessions/{session_id}", {
  params: { path: { session_id: "unknown" } },
});

process.stdout.write(
  JSON.stringify({
    waited,
    atOnce,
    streamed: events.map((event) => event.type),
    described: events.map(describe).length,
    log: log.map((event) => event.type),
    problem: unknown.error?.code,
  }) + "\n",
);
