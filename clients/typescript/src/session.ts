/** The handle of one session. */
import type { CallOptions, ChangeOptions, ChatOptions } from "./client.js";
import { RunFailedError } from "./errors.js";
import { EventStream, type StreamOptions } from "./event-stream.js";
import { LiveSession, type LiveOptions } from "./live-session.js";
import { segment, type Transport } from "./transport.js";
import type {
  Branch,
  ChatAccepted,
  Connection,
  EventPage,
  ForkInput,
  InputsAccepted,
  Message,
  MessageInput,
  MessagePage,
  NewShare,
  OpenInput,
  PostedEvent,
  Query,
  RegenerateInput,
  Run,
  RunCancelled,
  RunPage,
  RunWaited,
  Said,
  Session,
  SessionPatch,
  Share,
  ShareInput,
  StreamEvent,
  Ticket,
} from "./types.js";

/** How long one request waits for a run's end; a wait that takes longer is asked for again. */
const WAIT_SECONDS = 60;

export type RunStatus = Run["status"];

export class SessionHandle {
  readonly #transport: Transport;
  readonly #path: string;

  constructor(
    transport: Transport,
    readonly id: string,
  ) {
    this.#transport = transport;
    this.#path = `/sessions/${segment(id)}`;
  }

  // -- the conversation -----------------------------------------------------------------------

  /** Say something. It is sent again until it is known to be there, once; then a run answers it. */
  chat(message: Said, options: ChatOptions = {}): Promise<ChatAccepted> {
    const { signal, idempotencyKey = true, ...input } = options;
    const json = { message, session_id: this.id, ...input };
    return this.#transport.json("POST", "/chat", { json, idempotencyKey, signal });
  }

  /**
   * Say something and return the whole answer.
   *
   * @throws {RunFailedError} The run did not complete.
   */
  async ask(message: Said, options: ChatOptions = {}): Promise<Message | null> {
    const { run_id: runId } = await this.chat(message, options);
    const run = await this.wait(runId, options);
    if (run.status !== "completed") throw new RunFailedError(run);
    return run.message ?? null;
  }

  /** Put another message in the place of a user's message, in a new branch, and have it answered. */
  edit(messageId: string, message: Said, options: ChatOptions = {}): Promise<ChatAccepted> {
    return this.chat(message, { ...options, edit_message_id: messageId });
  }

  /** Have a message answered again, in a new branch; without `message_id` the last one. */
  regenerate(options: ChangeOptions & RegenerateInput = {}): Promise<ChatAccepted> {
    const { signal, idempotencyKey = true, ...json } = options;
    return this.#post("/regenerate", { json, idempotencyKey, signal });
  }

  /** One page of the current branch, or of another one. */
  messages(query: Query<"listMessages"> = {}, options: CallOptions = {}): Promise<MessagePage> {
    return this.#get("/messages", options, query);
  }

  /** All messages, oldest first, page by page. */
  async *allMessages(
    query: Omit<Query<"listMessages">, "after" | "before" | "order"> = {},
    options: CallOptions = {},
  ): AsyncGenerator<Message, void, undefined> {
    let after: string | undefined;
    for (;;) {
      const page = await this.messages({ ...query, ...(after ? { after } : {}) }, options);
      yield* page.messages;
      after = page.messages.at(-1)?.id;
      if (!page.has_more || after === undefined) return;
    }
  }

  /** Add messages without starting a run. */
  async addMessages(
    messages: MessageInput | MessageInput[],
    options: ChangeOptions = {},
  ): Promise<Message[]> {
    const { signal, idempotencyKey = true } = options;
    const call = { json: messages, idempotencyKey, signal };
    return (await this.#post<{ messages: Message[] }>("/messages", call)).messages;
  }

  // -- following it ---------------------------------------------------------------------------

  /**
   * The session's events as they come. Without `after` or `from` it begins with the active run, or
   * now. With `until: "complete"` it ends with the run's last event.
   */
  stream(
    options: StreamOptions & {
      after?: string;
      from?: "start";
      until?: "complete";
      run_id?: string;
      connection_id?: string;
    } = {},
  ): EventStream {
    const { signal, onConnection, ...query } = options;
    const path = `/stream/${segment(this.id)}`;
    const rest: StreamOptions = {};
    if (signal !== undefined) rest.signal = signal;
    if (onConnection !== undefined) rest.onConnection = onConnection;
    return new EventStream<StreamEvent>(this.#transport, { path, query, positions: true }, rest);
  }

  /** All events of a run that was accepted: from before its first one to its end. */
  streamRun(
    run: Pick<ChatAccepted, "position" | "run_id">,
    options: StreamOptions = {},
  ): EventStream {
    const { position: after, run_id } = run;
    return this.stream({ ...options, after, run_id, until: "complete" });
  }

  /** The conversation as people see it, kept up to date: what `useSession` shows. */
  follow(options: LiveOptions = {}): LiveSession {
    return new LiveSession(this, options);
  }

  /** One page of the log. */
  events(query: Query<"listEvents"> = {}, options: CallOptions = {}): Promise<EventPage> {
    const extraMs = (query.wait ?? 0) * 1000;
    return this.#transport.json("GET", `${this.#path}/events`, { query, extraMs, ...options });
  }

  /** Append events of your own (`custom`), or those of an external run that is open. */
  appendEvents(
    events: PostedEvent | PostedEvent[],
    options: ChangeOptions = {},
  ): Promise<{ first: string | null; last: string | null; count: number }> {
    const { signal, idempotencyKey = true } = options;
    return this.#post("/events", { json: events, idempotencyKey, signal });
  }

  async connections(options: CallOptions = {}): Promise<Connection[]> {
    return (await this.#get<{ connections: Connection[] }>("/connections", options)).connections;
  }

  // -- runs -----------------------------------------------------------------------------------

  runs(query: Query<"listRuns"> = {}, options: CallOptions = {}): Promise<RunPage> {
    return this.#get("/runs", options, query);
  }

  run(runId: string, options: CallOptions = {}): Promise<Run> {
    return this.#get(`/runs/${segment(runId)}`, options);
  }

  /** Wait for a run's end, however long it takes; abort the signal to stop waiting. */
  async wait(runId: string, options: CallOptions = {}): Promise<RunWaited> {
    const path = `${this.#path}/runs/${segment(runId)}`;
    for (;;) {
      const call = { wait: WAIT_SECONDS, signal: options.signal };
      const run = await this.#transport.json<RunWaited>("GET", path, call);
      if (run.status !== "queued" && run.status !== "running") return run;
    }
  }

  /** Cancel a run; of one that has ended it answers how. */
  cancelRun(runId: string, options: ChangeOptions = {}): Promise<RunCancelled> {
    const { signal, idempotencyKey = true } = options;
    return this.#post(`/runs/${segment(runId)}/cancel`, { idempotencyKey, signal });
  }

  /** Cancel the active run and everything that waits. */
  async cancel(options: ChangeOptions = {}): Promise<RunCancelled[]> {
    const { signal, idempotencyKey = true } = options;
    const done = await this.#post<{ runs: RunCancelled[] }>("/cancel", { idempotencyKey, signal });
    return done.runs;
  }

  // -- what the agent asks --------------------------------------------------------------------

  /** The requests for input that wait for an answer. */
  async inputs(options: CallOptions = {}): Promise<OpenInput[]> {
    return (await this.#get<{ inputs: OpenInput[] }>("/inputs", options)).inputs;
  }

  /** Answer requests, by their ids; an approval with `{ approved: true }`. */
  answer(
    answers: Record<string, unknown>,
    options: ChangeOptions & { run_id?: string; options?: Record<string, unknown> } = {},
  ): Promise<InputsAccepted> {
    const { signal, idempotencyKey = true, ...rest } = options;
    return this.#post("/inputs", { json: { answers, ...rest }, idempotencyKey, signal });
  }

  // -- branches -------------------------------------------------------------------------------

  async branches(options: CallOptions = {}): Promise<Branch[]> {
    return (await this.#get<{ branches: Branch[] }>("/branches", options)).branches;
  }

  /** Make a branch the current one. */
  select(branchId: string, options: ChangeOptions = {}): Promise<unknown> {
    const { signal, idempotencyKey = true } = options;
    const path = `/branches/${segment(branchId)}/select`;
    return this.#post(path, { idempotencyKey, signal });
  }

  // -- the session itself ---------------------------------------------------------------------

  info(options: CallOptions = {}): Promise<Session> {
    return this.#get("", options);
  }

  /** Change what is given; `ifMatch` is an ETag, without which the last change wins. */
  update(patch: SessionPatch, options: CallOptions & { ifMatch?: string } = {}): Promise<Session> {
    const { signal, ifMatch } = options;
    const call = { json: patch, headers: { "If-Match": ifMatch }, signal };
    return this.#transport.json("PATCH", this.#path, call);
  }

  delete(options: CallOptions = {}): Promise<void> {
    return this.#transport.json("DELETE", this.#path, options);
  }

  close(options: ChangeOptions = {}): Promise<Session> {
    return this.#verb("/close", options);
  }

  reopen(options: ChangeOptions & { ttl_seconds?: number } = {}): Promise<Session> {
    const { ttl_seconds } = options;
    return this.#verb("/reopen", options, ttl_seconds === undefined ? undefined : { ttl_seconds });
  }

  archive(options: ChangeOptions = {}): Promise<unknown> {
    return this.#verb("/archive", options);
  }

  restore(options: ChangeOptions = {}): Promise<Session> {
    return this.#verb("/restore", options);
  }

  /** Copy the conversation, up to a message if one is named, into a session of its own. */
  fork(input: ForkInput = {}, options: ChangeOptions = {}): Promise<Session> {
    return this.#verb("/fork", options, input);
  }

  // -- who else may read it -------------------------------------------------------------------

  /** A credential for one session and a short time, for pages that get no key. */
  ticket(options: CallOptions = {}): Promise<Ticket> {
    return this.#verb("/ticket", options);
  }

  async shares(options: CallOptions = {}): Promise<Share[]> {
    return (await this.#get<{ shares: Share[] }>("/shares", options)).shares;
  }

  /** Share with a user, or with everyone who has the link; its token is shown once. */
  share(input: ShareInput, options: ChangeOptions = {}): Promise<NewShare> {
    return this.#verb("/shares", options, input);
  }

  revokeShare(shareId: string, options: CallOptions = {}): Promise<void> {
    const path = `${this.#path}/shares/${segment(shareId)}`;
    return this.#transport.json("DELETE", path, options);
  }

  #get<T>(path: string, options: CallOptions, query: Record<string, unknown> = {}): Promise<T> {
    return this.#transport.json("GET", `${this.#path}${path}`, { query, signal: options.signal });
  }

  #post<T>(path: string, call: Parameters<Transport["json"]>[2]): Promise<T> {
    return this.#transport.json("POST", `${this.#path}${path}`, call);
  }

  #verb<T>(path: string, options: ChangeOptions, json?: unknown): Promise<T> {
    const { signal, idempotencyKey = true } = options;
    return this.#post(path, { json, idempotencyKey, signal });
  }
}
