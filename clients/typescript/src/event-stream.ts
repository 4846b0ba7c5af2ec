/** A stream that is read as one sequence of events, however often its connection is lost. */
import { ApiError, BambooError, ConnectionError, ProtocolError } from "./errors.js";
import { FrameParser, type Frame } from "./frames.js";
import { linked, onNetwork, pause, pauseMs } from "./pauses.js";
import type { Transport } from "./transport.js";
import type { StreamEvent } from "./types.js";

/**
 * `connecting`: for the first time. `reconnecting`: after a loss, or while no gateway answers.
 * `ended`: for good.
 */
export type ConnectionState = "connecting" | "open" | "reconnecting" | "ended";

export interface StreamOptions {
  signal?: AbortSignal;
  /** Told whenever the state of the connection changes; with the reason of a loss, if it is known. */
  onConnection?: (state: ConnectionState, error?: unknown) => void;
}

/** What a stream shows of an event, whichever kind of stream it is. */
interface AnyEvent {
  type: string;
  seq?: number;
  run_id?: string;
}

interface Goodbye extends AnyEvent {
  reason?: string;
  retry?: boolean;
}

export interface StreamRequest {
  path: string;
  query: Record<string, unknown>;
  /** Whether the ids of frames are positions, so that an event that came already can be told. */
  positions: boolean;
}

/** The pause before a reconnect, until the gateway has said another one. */
const RETRY_MS = 1000;
const TERMINAL = new Set(["complete", "error", "cancelled"]);
/** A connection that was open for so long does not count as a failed attempt. */
const LASTED_MS = 10_000;

/**
 * The events of a stream, for one `for await`. It connects when the first event is asked for, and
 * again with its position after every loss, until it is closed, its signal aborts, or the gateway ends
 * it for good. A slow reader slows the connection down; nothing piles up.
 *
 * @throws {ApiError} The gateway refuses the stream, and waiting would not help.
 * @throws {ProtocolError} What answers is no gateway.
 */
export class EventStream<E extends AnyEvent = StreamEvent> implements AsyncIterable<E> {
  /** Where a later stream goes on: the id of the last event that was handed out. */
  position: string | undefined;
  /** Why the gateway ended the stream for good; undefined while it has not. */
  goodbye: string | undefined;

  readonly #transport: Transport;
  readonly #request: StreamRequest;
  readonly #options: StreamOptions;
  readonly #ending = new AbortController();
  #state: ConnectionState | undefined;
  #taken = false;
  #wasOpen = false;
  #retryMs = RETRY_MS;
  #runId: string | undefined;
  #last: AnyEvent | undefined;

  constructor(transport: Transport, request: StreamRequest, options: StreamOptions) {
    this.#transport = transport;
    this.#request = request;
    this.#options = options;
    const { run_id: runId } = request.query;
    if (typeof runId === "string") this.#runId = runId;
    const { after } = request.query;
    if (typeof after === "string") this.position = after;
  }

  /** End it: a loop over it ends without an error. */
  close(): void {
    this.#ending.abort(CLOSED);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<E, void, undefined> {
    if (this.#taken) throw new TypeError("A stream is read once. Open another at its position.");
    this.#taken = true;
    const { controller, release } = linked(this.#options.signal);
    const close = (): void => controller.abort(CLOSED);
    if (this.#ending.signal.aborted) close();
    else this.#ending.signal.addEventListener("abort", close, { once: true });
    try {
      yield* this.#events(controller.signal);
    } catch (error) {
      if (error !== CLOSED) throw error;
    } finally {
      controller.abort(CLOSED);
      release();
      this.#become("ended");
    }
  }

  /** Connect again and again. */
  async *#events(signal: AbortSignal): AsyncGenerator<E, void, undefined> {
    this.#become("connecting");
    for (let failures = 0; ; failures += 1) {
      signal.throwIfAborted();
      const connection = new Connection(signal, this.#transport.silenceMs);
      let lost: unknown = new ConnectionError("The stream was cut.");
      try {
        const response = await this.#open(connection.signal);
        if (response === undefined) return;
        for await (const frame of connection.frames(response)) {
          const event = parsed<E & Goodbye>(frame.data);
          this.#retryMs = connection.retry ?? this.#retryMs;
          this.#wasOpen = true;
          if (event.type === "open") this.#become("open");
          else failures = -1;
          const repeated = this.#note(frame, event);
          if (event.type === "goodbye" && event.retry) {
            if (event.reason === "unauthorized") this.#transport.forgetCredentials();
            lost = new ConnectionError(`The gateway ended the stream: ${event.reason}`);
            break;
          }
          if (!repeated && event.type !== "heartbeat") yield event;
          if (event.type === "goodbye" && !this.#isJoint) {
            this.goodbye = event.reason;
            return;
          }
          if (this.#isLast(event, false)) return;
        }
        if (this.#last !== undefined && this.#isLast(this.#last, true)) return;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof BambooError) || !error.retryable) throw error;
        lost = error;
      } finally {
        connection.end();
      }
      this.#become("reconnecting", lost);
      if (connection.hasLasted) failures = 0;
      const after = lost instanceof ApiError ? (lost.retryAfterMs ?? 0) : 0;
      if (!connection.isWoken) await this.#pause(Math.max(failures, 0), after, signal);
    }
  }

  async #open(signal: AbortSignal): Promise<Response | undefined> {
    const { path, query } = this.#request;
    const asked = { ...query };
    if (this.position !== undefined) {
      asked.after = this.position;
      delete asked.from;
    }
    if (asked.until !== undefined) asked.run_id = this.#runId;
    const headers = { Accept: "text/event-stream" };
    const response = await this.#transport.send("GET", path, { query: asked, headers, signal });
    if (response.status === 204) return undefined;
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      await response.body?.cancel();
      const said = `GET ${path}: the answer is no stream of events`;
      // At first the address is wrong. Later a proxy, or a network that asks for a login, is in between.
      throw this.#wasOpen ? new ConnectionError(said) : new ProtocolError(said);
    }
    return response;
  }

  get #isJoint(): boolean {
    return Array.isArray(this.#request.query.session_id);
  }

  /** Move the position behind a frame; return whether its event came already. */
  #note(frame: Frame, event: AnyEvent): boolean {
    const before = this.position;
    if (frame.id !== "") this.position = frame.id;
    if (event.seq === undefined) return false;
    this.#last = event;
    // With `until=complete` a reconnect names the run, so that it does not wait for the next one.
    const queued = event.type === "run_queued" || event.type === "cancelled";
    if (event.run_id && !queued) this.#runId ??= event.run_id;
    if (!this.#request.positions || before === undefined) return false;
    const [epoch, seq] = before.split("-");
    const repeated = frame.id.startsWith(`${epoch}-`) && event.seq <= Number(seq);
    if (repeated) this.position = before;
    return repeated;
  }

  /** Return whether the stream was to end with this event. */
  #isLast(event: AnyEvent, ended: boolean): boolean {
    if (this.#request.query.until !== "complete" || !TERMINAL.has(event.type)) return false;
    return event.run_id === this.#runId || (ended && this.#runId === undefined);
  }

  /** Wait before the next attempt; a page that comes online, or is shown again, does not wait. */
  async #pause(failures: number, afterMs: number, signal: AbortSignal): Promise<void> {
    const { minMs = this.#retryMs, maxMs = 30_000 } = this.#transport.backoff;
    const { controller, release } = linked(signal);
    const unwatch = onNetwork((change) => {
      if (change !== "offline") controller.abort(WOKEN);
    });
    const ms = Math.max(afterMs, pauseMs(failures, Math.min(minMs, maxMs), maxMs));
    try {
      await pause(ms, controller.signal);
    } catch (error) {
      if (error !== WOKEN) throw error;
    } finally {
      unwatch();
      release();
    }
  }

  #become(state: ConnectionState, error?: unknown): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onConnection?.(state, error);
  }
}

const CLOSED = new DOMException("The stream was closed.", "AbortError");
const WOKEN = new DOMException("The page has a network again.", "AbortError");

function parsed<T extends AnyEvent>(data: string): T {
  try {
    const event = JSON.parse(data) as T;
    if (typeof event.type === "string") return event;
  } catch {
    // No JSON, or null.
  }
  throw new ProtocolError("A frame of the stream is no event.");
}

/** One connection of a stream, which ends when it is silent for too long or the page was asleep. */
class Connection {
  /** What the gateway asks to wait before a reconnect. */
  retry: number | undefined;
  /** Whether it ended because the page has a network again. */
  isWoken = false;

  readonly #linked: ReturnType<typeof linked>;
  readonly #silenceMs: number;
  readonly #unwatch: () => void;
  readonly #begunAt = Date.now();
  #heardAt = this.#begunAt;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(signal: AbortSignal, silenceMs: number) {
    this.#linked = linked(signal);
    this.#silenceMs = silenceMs;
    this.#watch();
    this.#unwatch = onNetwork((change) => {
      if (change === "shown" && Date.now() - this.#heardAt < silenceMs) return;
      this.isWoken = change !== "offline";
      this.#cut(`The page is ${change}.`);
    });
  }

  get signal(): AbortSignal {
    return this.#linked.controller.signal;
  }

  get hasLasted(): boolean {
    return this.#heardAt - this.#begunAt > LASTED_MS;
  }

  async *frames(response: Response): AsyncGenerator<Frame, void, undefined> {
    const reader = response.body?.getReader();
    if (reader === undefined) return;
    const parser = new FrameParser();
    try {
      for (;;) {
        this.#watch();
        const { done, value } = await reader.read();
        // While the program is at work on the events, silence is its own.
        clearTimeout(this.#timer);
        this.#heardAt = Date.now();
        if (done) return;
        const frames = parser.push(value);
        this.retry = parser.retry;
        yield* frames;
      }
    } catch (cause) {
      if (cause instanceof BambooError) throw cause;
      throw new ConnectionError(`The stream was cut: ${String(cause)}`, { cause });
    } finally {
      // Of a connection that was lost it rejects; there is nothing left to do.
      reader.cancel().catch(() => undefined);
    }
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#unwatch();
    this.#linked.release();
    this.#linked.controller.abort(CLOSED);
  }

  #watch(): void {
    clearTimeout(this.#timer);
    const silent = `Nothing came for ${this.#silenceMs} ms.`;
    this.#timer = setTimeout(() => this.#cut(silent), this.#silenceMs);
  }

  #cut(reason: string): void {
    this.#linked.controller.abort(new ConnectionError(reason));
  }
}
