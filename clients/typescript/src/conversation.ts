/**
 * Folds events into the conversation as people see it. It needs no network.
 *
 * The rules are the gateway's: text, thinking and calls up to the first result are one message of the
 * assistant, each result is one message, and a `message` event replaces what its deltas have made.
 */
import type { EventOf, LogEvent, Message, MessagePage, OpenInput } from "./types.js";

/**
 * A message as it is shown: of the log (`complete`, `incomplete`), being said by the agent
 * (`streaming`), waiting for its run (`queued`), or on its way to the gateway (`sending`, `failed`).
 */
export type ShownMessage = Omit<Message, "status"> & {
  status: Message["status"] | "streaming" | "queued" | "sending" | "failed";
};

/** What is known of a tool call while it runs: `tool_delta` events are no part of messages. */
export interface ToolProgress {
  tool_call_id: string;
  name: string;
  /** Its arguments or its output, as they arrive. */
  output: string;
  status: "running" | "done" | "failed";
}

export interface RunEnd {
  run_id: string;
  status: "completed" | "failed" | "cancelled" | "interrupted";
  error: { code: string; message: string } | null;
}

type Part = { type: "text" | "thinking"; text: string };

/** A message that has begun and is not in the log yet. */
interface Unfinished {
  shown: ShownMessage;
  parts: Part[];
  calls: NonNullable<Message["tool_calls"]>;
  stale: boolean;
}

export class Conversation {
  /** The run that is being executed. */
  activeRunId: string | null = null;
  /** How the last run ended. */
  lastRun: RunEnd | null = null;
  /** Whether the events alone do not say what is shown now: load the messages again. */
  needsReload = false;
  title: string | null = null;
  /** `closed`, `expired` or `archived`; null for a session that can be written to. */
  state: string | null = null;

  #settled: ShownMessage[] = [];
  #places = new Map<string, number>();
  #unfinished = new Map<string, Unfinished>();
  #queue = new Map<string, ShownMessage[]>();
  #inputs = new Map<string, OpenInput>();
  #tools = new Map<string, ToolProgress>();
  #children = new Map<string | null, string[]>();
  #loadedSeq = 0;
  #shown: readonly ShownMessage[] | undefined;

  /** Begin with messages that were loaded, oldest first, and the position they were loaded at. */
  constructor(page: Partial<Pick<MessagePage, "messages" | "position">> = {}) {
    this.#loadedSeq = Number(page.position?.split("-")[1] ?? 0);
    for (const message of page.messages ?? []) this.#settle(message);
  }

  /** What people see, oldest first. The same array until something changes. */
  get messages(): readonly ShownMessage[] {
    this.#shown ??= [
      ...this.#settled,
      ...Array.from(this.#unfinished.values(), finished),
      ...[...this.#queue.values()].flat(),
    ];
    return this.#shown;
  }

  /** The requests for input that wait for an answer. */
  get inputs(): OpenInput[] {
    return [...this.#inputs.values()];
  }

  /** The calls of the active run. */
  get tools(): ReadonlyMap<string, ToolProgress> {
    return this.#tools;
  }

  /** The runs that wait. */
  get queuedRunIds(): string[] {
    return [...this.#queue.keys()];
  }

  /** Put older messages, which were loaded later, before all others. */
  prepend(messages: readonly Message[]): void {
    this.#shown = undefined;
    const newer = this.#settled;
    this.#settled = [];
    this.#places.clear();
    for (const message of [...messages, ...newer]) this.#settle(message);
  }

  /** Take over the requests for input that were loaded. */
  load(inputs: readonly OpenInput[]): void {
    this.#inputs = new Map(inputs.map((input) => [input.request_id, input]));
  }

  /** Return whether a message is shown that is in the log or waits for its run. */
  has(messageId: string): boolean {
    const waits = (messages: ShownMessage[]): boolean => messages.some((one) => one.id === messageId);
    return this.#places.has(messageId) || [...this.#queue.values()].some(waits);
  }

  /**
   * Apply the next event of the log; other events of a stream are ignored, as are types to come.
   * Events up to the loaded position may come again: they change nothing.
   */
  apply(event: LogEvent | { type: string }): void {
    if (!("seq" in event)) return;
    this.#shown = undefined;
    const isLoaded = event.seq <= this.#loadedSeq;
    switch (event.type) {
      case "token":
        this.#add(event, "text");
        break;
      case "thinking":
        this.#add(event, "thinking");
        break;
      case "tool_start":
        this.#call(event);
        break;
      case "tool_delta":
        this.#progress(event);
        break;
      case "tool_complete":
        this.#end(event.tool_call_id, event.result.success);
        this.#result(event, asText(event.result.content));
        break;
      case "tool_error":
        this.#end(event.tool_call_id, false);
        this.#result(event, event.error);
        break;
      case "message":
        this.#message(event.message, isLoaded);
        break;
      case "run_queued": {
        const waiting = event.messages.map((one): ShownMessage => ({ ...one, status: "queued" }));
        const entries = [...this.#queue].filter(([runId]) => runId !== event.run_id);
        entries[event.front ? "unshift" : "push"]([event.run_id, waiting]);
        this.#queue = new Map(entries);
        break;
      }
      case "run_start":
        this.#queue.delete(event.run_id);
        this.#tools = new Map();
        this.activeRunId = event.run_id;
        break;
      case "complete":
        this.#ended({ run_id: event.run_id, status: "completed", error: null });
        break;
      case "cancelled":
        this.#ended({ run_id: event.run_id, status: "cancelled", error: null });
        break;
      case "error": {
        const { run_id, code, message } = event;
        const status = code === "interrupted" ? code : "failed";
        this.#ended({ run_id, status, error: { code, message } });
        break;
      }
      case "input_required":
        this.#inputs.set(event.request_id, {
          request_id: event.request_id,
          kind: event.kind,
          prompt: event.prompt,
          run_id: event.run_id,
          tool_call_id: event.tool_call_id ?? null,
          schema: event.schema ?? null,
          asked_at: event.time,
          expires_at: event.expires_at ?? null,
        });
        break;
      case "input_given":
      case "input_closed":
        this.#inputs.delete(event.request_id);
        break;
      case "branch_started":
        if (!isLoaded) this.#cut(event.from_message_id);
        break;
      case "branch_selected":
        if (!isLoaded) this.needsReload = true;
        break;
      case "session_merged":
        // Only in logs of earlier versions: what was there counts no more.
        if (event.replaces && !isLoaded) this.#cut(null);
        break;
      case "session_created":
      case "session_updated":
        if (event.title !== undefined) this.title = event.title;
        break;
      case "state_change":
        this.state = ["closed", "expired", "archived"].includes(event.to) ? event.to : null;
        break;
      default:
        break;
    }
  }

  /** Put a message of the log in its place. */
  #message(message: Message, isLoaded: boolean): void {
    this.#unfinished.delete(message.id);
    // One that is older than the first loaded message stays out.
    if (isLoaded && !this.#places.has(message.id)) return;
    // Logs of earlier versions leave out the place: on the first branch, behind the last message.
    const parent = this.#settled.at(-1)?.id ?? null;
    const place = message.parent_id === undefined ? { parent_id: parent, branch_id: "main" } : {};
    if (!this.#places.has(message.id)) this.#settle({ ...place, ...message });
    for (const [runId, waiting] of this.#queue) {
      if (waiting.some((one) => one.id === message.id)) {
        this.#queue.set(runId, waiting.filter((one) => one.id !== message.id));
      }
    }
  }

  #settle(message: ShownMessage): void {
    const place = this.#places.get(message.id) ?? this.#settled.length;
    this.#settled[place] = message;
    this.#places.set(message.id, place);
    const { parent_id: parent, id, siblings } = message;
    if (parent === undefined) return;
    const before = this.#children.get(parent) ?? [];
    const all = [...new Set([...(siblings ?? []), ...before, id])];
    this.#children.set(parent, all);
    if (all.length > 1) this.#settled[place] = { ...message, siblings: all };
  }

  /** Remove everything behind a message. */
  #cut(from: string | null): void {
    const place = from === null ? -1 : this.#places.get(from);
    if (place === undefined) {
      this.needsReload = true;
      return;
    }
    for (const message of this.#settled.splice(place + 1)) this.#places.delete(message.id);
    this.#unfinished.clear();
  }

  #begin(messageId: string, runId: string, time: string): Unfinished | undefined {
    if (this.#places.has(messageId)) return undefined;
    let found = this.#unfinished.get(messageId);
    if (found === undefined) {
      const shown: ShownMessage = {
        id: messageId,
        role: "assistant",
        content: "",
        status: "streaming",
        run_id: runId,
        created_at: time,
        metadata: {},
      };
      found = { shown, parts: [], calls: [], stale: false };
      this.#unfinished.set(messageId, found);
    }
    return found;
  }

  #add(event: EventOf<"token" | "thinking">, type: Part["type"]): void {
    const begun = this.#begin(event.message_id, event.run_id, event.time);
    if (begun === undefined) return;
    const last = begun.parts.at(-1);
    if (last?.type === type) last.text += event.content;
    else begun.parts.push({ type, text: event.content });
    begun.stale = true;
  }

  #call(event: EventOf<"tool_start">): void {
    const { tool_call_id: id, tool_name: name } = event;
    const known = this.#tools.get(id);
    this.#tools = new Map(this.#tools).set(id, {
      tool_call_id: id,
      name,
      output: known?.output ?? "",
      status: "running",
    });
    const begun = this.#begin(event.message_id, event.run_id, event.time);
    // A call that is told twice keeps its first arguments, as in the gateway's message.
    if (begun === undefined || begun.calls.some((call) => call.id === id)) return;
    begun.calls.push({ id, name, arguments: event.arguments });
    begun.stale = true;
  }

  #progress(event: EventOf<"tool_delta">): void {
    const id = event.tool_call_id;
    const known = this.#tools.get(id);
    this.#tools = new Map(this.#tools).set(id, {
      tool_call_id: id,
      name: known?.name ?? "",
      output: (known?.output ?? "") + event.content,
      status: known?.status ?? "running",
    });
  }

  #end(callId: string, success: boolean): void {
    const known = this.#tools.get(callId);
    if (known === undefined) return;
    const status = success ? "done" : "failed";
    this.#tools = new Map(this.#tools).set(callId, { ...known, status });
  }

  /** Show a result at once; its `message` may be held back behind those of other calls. */
  #result(event: EventOf<"tool_complete" | "tool_error">, content: string): void {
    const begun = this.#begin(event.message_id, event.run_id, event.time);
    if (begun === undefined) return;
    begun.shown = {
      ...begun.shown,
      role: "tool",
      content,
      tool_call_id: event.tool_call_id,
      status: "complete",
    };
  }

  #ended(end: RunEnd): void {
    this.#queue.delete(end.run_id);
    for (const [id, { shown }] of this.#unfinished) {
      if (shown.run_id === end.run_id) this.#unfinished.delete(id);
    }
    if (this.activeRunId === end.run_id) this.activeRunId = null;
    if (end.status !== "completed") this.#closeInputs(end.run_id);
    this.lastRun = end;
  }

  #closeInputs(runId: string): void {
    for (const [id, input] of this.#inputs) if (input.run_id === runId) this.#inputs.delete(id);
  }
}

/** Fold a log, from its first event, into the messages of its current branch; null when it takes more than these events. */
export function foldMessages(events: Iterable<LogEvent>): readonly ShownMessage[] | null {
  const conversation = new Conversation();
  for (const event of events) conversation.apply(event);
  return conversation.needsReload ? null : conversation.messages;
}

/** Return the text of a message: without thinking, files and calls. */
export function textOf(message: Pick<ShownMessage, "content">): string {
  const { content } = message;
  if (typeof content === "string") return content;
  return content.map((part) => ("text" in part && part.type === "text" ? part.text : "")).join("");
}

function finished(begun: Unfinished): ShownMessage {
  if (begun.stale) {
    const { parts, calls } = begun;
    const plain = parts.every((part) => part.type === "text");
    const content = plain ? parts.map((part) => part.text).join("") : parts.map((part) => ({ ...part }));
    begun.shown = { ...begun.shown, content: content as ShownMessage["content"] };
    if (calls.length > 0) begun.shown.tool_calls = [...calls];
    begun.stale = false;
  }
  return begun.shown;
}

function asText(content: unknown): string {
  return typeof content === "string" ? content : JSON.stringify(content);
}
