/**
 * A conversation that stays up to date: it loads the messages, follows the stream, and loads again
 * when the gateway says so. It is independent of any user interface library.
 */
import type { ChatOptions } from "./client.js";
import { Conversation, type RunEnd, type ShownMessage, type ToolProgress } from "./conversation.js";
import { BambooError, NotFoundError } from "./errors.js";
import type { ConnectionState } from "./event-stream.js";
import { randomId } from "./ids.js";
import { pause, pauseMs } from "./pauses.js";
import type { SessionHandle } from "./session.js";
import type { ChatAccepted, Content, OpenInput, StreamEvent } from "./types.js";

/**
 * `loading`: nothing is known yet. `running`: an agent is at work, or a run waits. `needs_input`:
 * the agent has asked (`inputs`). `closed`: it can be read, not written to. `gone`: it was deleted.
 * `error`: the gateway refuses it (`error`); `reload` tries again.
 */
export type LiveStatus =
  | "loading"
  | "idle"
  | "running"
  | "needs_input"
  | "closed"
  | "gone"
  | "error";

export interface LiveSnapshot {
  readonly messages: readonly ShownMessage[];
  readonly status: LiveStatus;
  readonly connection: ConnectionState;
  /** What went wrong last, of following or of a verb; null after the next thing that went well. */
  readonly error: unknown;
  readonly inputs: readonly OpenInput[];
  readonly activeRunId: string | null;
  readonly queuedRunIds: readonly string[];
  /** The tool calls of the active run. */
  readonly tools: ReadonlyMap<string, ToolProgress>;
  readonly lastRun: RunEnd | null;
  readonly title: string | null;
  /** Whether there are messages before the first one that is shown: `loadOlder`. */
  readonly hasOlder: boolean;
}

export interface LiveOptions {
  /** How many messages are loaded at first, and by each `loadOlder` (default 100). */
  pageSize?: number;
  /** Told each event of the stream, after it was applied. */
  onEvent?: (event: StreamEvent) => void;
}

export type SendOptions = Omit<ChatOptions, "signal" | "idempotencyKey">;

const PAGE_SIZE = 100;
/** Words that arrive together are shown together: one frame of a screen. */
const SHOW_MS = 16;
const ENDED = new DOMException("The session is not followed any more.", "AbortError");

export class LiveSession {
  readonly #session: SessionHandle;
  readonly #options: LiveOptions;
  readonly #listeners = new Set<() => void>();
  readonly #outgoing = new Map<string, ShownMessage>();
  #conversation = new Conversation();
  #connection: ConnectionState = "connecting";
  #status: "loading" | "gone" | "error" | null = "loading";
  #isNew = false;
  #error: unknown = null;
  #hasOlder = false;
  #snapshot: LiveSnapshot;
  #showing: ReturnType<typeof setTimeout> | undefined;
  #running: AbortController | undefined;

  constructor(session: SessionHandle, options: LiveOptions = {}) {
    this.#session = session;
    this.#options = options;
    this.#snapshot = this.#made();
  }

  /** What is shown now: the same object until it changes. */
  readonly getSnapshot = (): LiveSnapshot => this.#snapshot;

  /** Be told of changes; return what ends it. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Begin to follow. It may be stopped and started again. */
  start(): void {
    if (this.#running !== undefined) return;
    const running = new AbortController();
    this.#running = running;
    this.#connection = "connecting";
    void this.#follow(running.signal);
  }

  stop(): void {
    this.#running?.abort(ENDED);
    this.#running = undefined;
    this.#connection = "ended";
    clearTimeout(this.#showing);
    this.#show();
  }

  /** Load everything again, also after an error. */
  readonly reload = (): void => {
    if (this.#running === undefined) return;
    this.#running.abort(ENDED);
    this.#running = undefined;
    this.#status = "loading";
    this.#error = null;
    this.start();
  };

  /**
   * Say something. It is shown at once as `sending`, and as `failed` when it could not be sent:
   * `send` it again then, with its id, which cannot double it.
   */
  readonly send = async (
    content: Content,
    options: SendOptions & { id?: string } = {},
  ): Promise<ChatAccepted> => {
    const { id = randomId("msg_"), ...rest } = options;
    const message = { id, role: "user", content } as const;
    this.#outgoing.set(id, {
      ...message,
      status: "sending",
      created_at: new Date().toISOString(),
      metadata: {},
    } as ShownMessage);
    this.#showSoon();
    try {
      // The message's id is the key, so that a second try is the same request.
      const accepted = await this.#do(() =>
        this.#session.chat(message, { ...rest, idempotencyKey: id }),
      );
      if (this.#isNew || this.#status === "gone") this.reload();
      return accepted;
    } catch (error) {
      const failed = this.#outgoing.get(id);
      if (failed !== undefined) this.#outgoing.set(id, { ...failed, status: "failed" });
      throw error;
    } finally {
      this.#showSoon();
    }
  };

  /** Stop showing a message that could not be sent. */
  readonly discard = (messageId: string): void => {
    this.#outgoing.delete(messageId);
    this.#showSoon();
  };

  /** Cancel the active run and everything that waits. */
  readonly cancel = async (): Promise<void> => {
    await this.#do(() => this.#session.cancel());
  };

  /** Have an answer made again; without an id the last one. */
  readonly regenerate = (messageId?: string, options: SendOptions = {}): Promise<ChatAccepted> => {
    const { agent, options: given, on_busy } = options;
    return this.#do(() =>
      this.#session.regenerate({
        ...(messageId === undefined ? {} : { message_id: messageId }),
        ...(agent === undefined ? {} : { agent }),
        ...(given === undefined ? {} : { options: given }),
        ...(on_busy === undefined ? {} : { on_busy }),
      }),
    );
  };

  /** Reword a user's message: a new branch begins in its place. */
  readonly edit = (
    messageId: string,
    content: Content,
    options: SendOptions = {},
  ): Promise<ChatAccepted> => {
    const message = { id: randomId("msg_"), role: "user", content } as const;
    return this.#do(() => this.#session.edit(messageId, message, options));
  };

  /** Go to the branch that has this sibling. */
  readonly select = async (messageId: string): Promise<void> => {
    await this.#do(async () => {
      for await (const message of this.#session.allMessages({ branch: "all", limit: 1000 })) {
        if (message.id !== messageId || message.branch_id === undefined) continue;
        await this.#session.select(message.branch_id);
        return;
      }
      throw new BambooError(`The session has no message ${messageId}.`);
    });
  };

  /** Answer what the agent asks. */
  readonly answer = async (answers: Record<string, unknown>): Promise<void> => {
    await this.#do(() => this.#session.answer(answers));
  };

  /** Load the messages before the first one. */
  readonly loadOlder = async (): Promise<void> => {
    const first = this.#conversation.messages[0];
    if (!this.#hasOlder || first === undefined) return;
    const conversation = this.#conversation;
    const query = { before: first.id, order: "desc", limit: this.#pageSize } as const;
    const page = await this.#do(() => this.#session.messages(query));
    if (conversation !== this.#conversation) return; // it was loaded again meanwhile
    if (conversation.messages[0]?.id !== first.id) return; // another call was quicker
    conversation.prepend(page.messages.reverse());
    this.#hasOlder = page.has_more;
    this.#showSoon();
  };

  get #pageSize(): number {
    return this.#options.pageSize ?? PAGE_SIZE;
  }

  // -- following ------------------------------------------------------------------------------

  async #follow(signal: AbortSignal): Promise<void> {
    for (let failures = 0; ; failures += 1) {
      try {
        if (!(await this.#once(signal))) return;
        failures = -1;
        continue;
      } catch (error) {
        if (signal.aborted || this.#hasNone(error)) return;
        this.#error = error;
        const isFinal = !(error instanceof BambooError) || !error.retryable;
        if (isFinal) this.#status = "error";
        this.#connection = isFinal ? "ended" : "reconnecting";
        this.#showSoon();
        if (isFinal) return;
      }
      await pause(pauseMs(failures, 1000, 30_000), signal).catch(() => undefined);
      if (signal.aborted) return;
    }
  }

  /** Load the conversation and follow it; return whether it has to be loaded again. */
  async #once(signal: AbortSignal): Promise<boolean> {
    const page = await this.#session.messages({ order: "desc", limit: this.#pageSize }, { signal });
    const conversation = new Conversation({ ...page, messages: page.messages.reverse() });
    // Asked after the messages: the stream tells everything since then once more.
    const info = await this.#session.info({ signal });
    if (info.open_requests.length > 0) conversation.load(await this.#session.inputs({ signal }));
    conversation.title = info.title;
    if (["closed", "expired", "archived"].includes(info.state)) conversation.state = info.state;
    conversation.activeRunId = info.active_run_id;
    this.#isNew = false;
    this.#status = null;
    this.#error = null;
    this.#conversation = conversation;
    this.#hasOlder = page.has_more;
    this.#forgetSent();
    this.#showSoon();
    const stream = this.#session.stream({
      signal,
      after: new URLSearchParams(page.stream_url.split("?")[1]).get("after") ?? page.position,
      onConnection: (state, error) => this.#connected(signal, state, error),
    });
    for await (const event of stream) {
      conversation.apply(event);
      if (event.type === "message" || event.type === "run_queued") this.#forgetSent();
      // A branch from the very begin: nothing is before what follows.
      const isEmpty = conversation.messages.length === 0;
      if (event.type === "branch_started" && isEmpty) this.#hasOlder = false;
      this.#options.onEvent?.(event);
      this.#showSoon();
      if (event.type === "reset" || conversation.needsReload) return true;
    }
    if (stream.goodbye === "deleted") this.#status = "gone";
    this.#connection = "ended";
    this.#showSoon();
    return false;
  }

  /** Return whether there is no session yet, or any more. */
  #hasNone(error: unknown): boolean {
    if (!(error instanceof NotFoundError) || error.code !== "session-not-found") return false;
    this.#isNew = true;
    this.#status = null;
    this.#connection = "ended";
    this.#conversation = new Conversation();
    this.#hasOlder = false;
    this.#showSoon();
    return true;
  }

  #connected(signal: AbortSignal, state: ConnectionState, error: unknown): void {
    if (signal.aborted) return;
    // A stream that ends so that everything is loaded again is no loss.
    if (state !== "ended") this.#connection = state;
    if (state === "open") this.#error = null;
    else if (error !== undefined) this.#error = error;
    this.#showSoon();
  }

  /** Stop showing what was sent beside what the gateway has of it. */
  #forgetSent(): void {
    for (const id of this.#outgoing.keys()) {
      if (this.#conversation.has(id)) this.#outgoing.delete(id);
    }
  }

  /** Do what a user asks for, and show how it went. */
  async #do<T>(verb: () => Promise<T>): Promise<T> {
    try {
      const done = await verb();
      this.#error = null;
      return done;
    } catch (error) {
      this.#error = error;
      throw error;
    } finally {
      this.#showSoon();
    }
  }

  // -- showing --------------------------------------------------------------------------------

  #showSoon(): void {
    this.#showing ??= setTimeout(() => this.#show(), SHOW_MS);
  }

  #show(): void {
    this.#showing = undefined;
    this.#snapshot = this.#made();
    for (const listener of this.#listeners) listener();
  }

  #made(): LiveSnapshot {
    const conversation = this.#conversation;
    const sent = [...this.#outgoing.values()];
    return {
      messages: sent.length === 0 ? conversation.messages : [...conversation.messages, ...sent],
      status: this.#statusNow(),
      connection: this.#connection,
      error: this.#error,
      inputs: conversation.inputs,
      activeRunId: conversation.activeRunId,
      queuedRunIds: conversation.queuedRunIds,
      tools: conversation.tools,
      lastRun: conversation.lastRun,
      title: conversation.title,
      hasOlder: this.#hasOlder,
    };
  }

  #statusNow(): LiveStatus {
    const conversation = this.#conversation;
    if (this.#status !== null) return this.#status;
    if (conversation.state !== null) return "closed";
    if (conversation.activeRunId !== null) return "running";
    if (conversation.inputs.length > 0) return "needs_input";
    return conversation.queuedRunIds.length > 0 ? "running" : "idle";
  }
}

