/** One place for requests: addresses, credentials, retries, time limits, errors. */
import { ApiError, BambooError, ConnectionError, errorOf, NotFoundError, ProtocolError } from "./errors.js";
import { randomId } from "./ids.js";
import { linked, pause, pauseMs, type Backoff } from "./pauses.js";

/** A credential, or what makes one: it is asked again when the gateway has refused the last one. */
export type Credential = string | (() => string | Promise<string>);

export interface ClientOptions {
  /** The gateway's address, with the prefix of a proxy if there is one. In a page: its own origin. */
  baseUrl?: string;
  /** A key or a token (JWT), sent as `Authorization: Bearer`. Without one a page's cookie counts. */
  token?: Credential;
  /** A ticket to one session, for pages that get no key: sent as `?ticket=`. */
  ticket?: Credential;
  /** The token of a share link, sent as `?share=`. */
  share?: string;
  /** For whom a service's key acts (`X-User-Id`). */
  userId?: string;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** Whether cookies are sent: "include" for a gateway of another origin. */
  credentials?: RequestCredentials;
  fetch?: typeof fetch;
  /** How long a request may take, without what it asks the gateway to wait (default 30 s). */
  timeoutMs?: number;
  /** How often a request is sent at most, when it may be repeated safely (default 6). */
  attempts?: number;
  backoff?: Backoff;
  /** A stream that is silent for so long is lost (default 45 s: three heartbeats). */
  silenceMs?: number;
}

export interface Call {
  query?: Record<string, unknown> | undefined;
  /** Sent as JSON. */
  json?: unknown;
  /** Sent as it is. */
  body?: BodyInit;
  headers?: Record<string, string | undefined>;
  signal?: AbortSignal | undefined;
  /** Makes a POST repeatable; `true` makes a key. Needed where a POST is to be sent again. */
  idempotencyKey?: string | boolean | undefined;
  /** How many seconds the gateway shall wait for the end of a run (`Prefer: wait`). */
  wait?: number;
  /** How many milliseconds it may take beyond the limit. */
  extraMs?: number;
}

/** A request that would have to wait for longer than this is given up at once. */
const RETRY_AFTER_MS_MAX = 60_000;
const FIRST_PAUSE_MS = 250;

export class Transport {
  readonly #options: ClientOptions;
  readonly #base: string;
  readonly #held = new Map<Credential, Promise<string>>();

  constructor(options: ClientOptions) {
    this.#options = options;
    const base = options.baseUrl ?? (globalThis as { location?: Location }).location?.origin;
    if (base === undefined) throw new TypeError("baseUrl is missing: the gateway's address");
    this.#base = `${base.replace(/\/+$/, "")}/api/v1`;
  }

  get backoff(): Backoff {
    return this.#options.backoff ?? {};
  }

  get silenceMs(): number {
    return this.#options.silenceMs ?? 45_000;
  }

  /** Return the address of a path below `/api/v1`, without credentials. */
  url(path: string, query: Record<string, unknown> = {}): string {
    const pairs = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      for (const one of Array.isArray(value) ? value : [value]) {
        if (one !== undefined && one !== null) pairs.append(name, String(one));
      }
    }
    const text = pairs.toString();
    return `${this.#base}${path}${text && `?${text}`}`;
  }

  /** Send a request and return the JSON of the answer; undefined for an answer without a body. */
  async json<T>(method: string, path: string, call: Call = {}): Promise<T> {
    return this.request(method, path, call, async (response) => {
      const text = await response.text();
      if (text === "") return undefined as T;
      try {
        return JSON.parse(text) as T;
      } catch (cause) {
        // HTTP says when an answer was cut, if it says how long it is: this one is whole, or is none.
        if (response.headers.get("Content-Type")?.includes("json")) throw cause;
        throw new ProtocolError(`${method} ${path}: the answer is no JSON`, { cause });
      }
    });
  }

  /**
   * Send a request, as often as needed where that is safe, and read its answer within the time limit.
   *
   * @throws {ApiError} The gateway refused.
   * @throws {ConnectionError} It did not answer.
   * @throws {ProtocolError} What answered is no gateway.
   */
  async request<T>(
    method: string,
    path: string,
    call: Call,
    read: (response: Response) => Promise<T>,
  ): Promise<T> {
    const given = call.idempotencyKey === true ? randomId("") : call.idempotencyKey;
    const key = given === false ? undefined : given;
    const safe = method !== "POST" || key !== undefined;
    const attempts = safe ? (this.#options.attempts ?? 6) : 1;
    const { minMs = FIRST_PAUSE_MS, maxMs = 30_000 } = this.backoff;
    const limit = (this.#options.timeoutMs ?? 30_000) + (call.wait ?? 0) * 1000 + (call.extraMs ?? 0);
    for (let failures = 0; ; failures += 1) {
      const { controller, release } = linked(call.signal);
      const late = new ConnectionError(`${method} ${path}: no answer within ${limit} ms`);
      const timer = setTimeout(() => controller.abort(late), limit);
      try {
        const once = { ...call, idempotencyKey: key, signal: controller.signal };
        const response = await this.send(method, path, once);
        return await read(response).catch((cause: unknown) => {
          throw unreachable(cause, method, path);
        });
      } catch (error) {
        if (call.signal?.aborted) throw call.signal.reason;
        if (!(error instanceof BambooError)) throw error; // a credential function's own
        // The answer of the attempt before was lost.
        const gone = method === "DELETE" && failures > 0 && error instanceof NotFoundError;
        if (gone) return undefined as T;
        const after = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
        const patient = error.retryable && after <= RETRY_AFTER_MS_MAX;
        if (!patient || failures + 1 >= attempts) throw error;
        await pause(Math.max(after, pauseMs(failures, minMs, maxMs)), call.signal);
      } finally {
        clearTimeout(timer);
        release();
      }
    }
  }

  /**
   * Send one request. A refused credential that a function gave is asked for again, once.
   *
   * @throws {ApiError} The gateway refused.
   * @throws {ProtocolError} The address redirects.
   */
  async send(method: string, path: string, call: Call): Promise<Response> {
    let response = await this.#fetch(method, path, call);
    if (response.status === 401 && this.forgetCredentials()) {
      await response.body?.cancel();
      response = await this.#fetch(method, path, call);
    }
    // Followed, a POST would become a GET, and the credential would be left out.
    if (response.type === "opaqueredirect" || (response.status >= 300 && response.status < 400)) {
      await response.body?.cancel();
      throw new ProtocolError(`${this.#base} redirects: give the address that it leads to.`);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** Forget what the credential functions gave; return whether there are any. */
  forgetCredentials(): boolean {
    this.#held.clear();
    const { token, ticket } = this.#options;
    return typeof token === "function" || typeof ticket === "function";
  }

  async #fetch(method: string, path: string, call: Call): Promise<Response> {
    const { token, ticket, share, userId } = this.#options;
    const headers = new Headers(this.#options.headers);
    const set = (name: string, value: string | undefined): void => {
      if (value !== undefined) headers.set(name, value);
    };
    const bearer = token === undefined ? undefined : await this.#valueOf(token);
    set("Authorization", bearer === undefined ? undefined : `Bearer ${bearer}`);
    set("X-User-Id", userId);
    set("Content-Type", call.json === undefined ? undefined : "application/json");
    set("Idempotency-Key", typeof call.idempotencyKey === "string" ? call.idempotencyKey : undefined);
    set("Prefer", call.wait === undefined ? undefined : `wait=${call.wait}`);
    for (const [name, value] of Object.entries(call.headers ?? {})) set(name, value);
    const inUrl = { share, ticket: ticket === undefined ? undefined : await this.#valueOf(ticket) };
    const init: RequestInit = { method, headers, cache: "no-store", redirect: "manual" };
    if (this.#options.credentials !== undefined) init.credentials = this.#options.credentials;
    if (call.signal !== undefined) init.signal = call.signal;
    if (call.json !== undefined) init.body = JSON.stringify(call.json);
    else if (call.body !== undefined) init.body = call.body;
    const send = this.#options.fetch ?? fetch;
    try {
      return await send(this.url(path, { ...call.query, ...inUrl }), init);
    } catch (cause) {
      throw unreachable(cause, method, path);
    }
  }

  /** Return a credential; one that is being made is waited for, not made twice. */
  #valueOf(credential: Credential): string | Promise<string> {
    if (typeof credential === "string") return credential;
    let held = this.#held.get(credential);
    if (held === undefined) {
      held = Promise.resolve(credential());
      this.#held.set(credential, held);
      held.catch(() => this.#held.delete(credential));
    }
    return held;
  }
}

/** Make the error of a request without an answer; keep one that is an error of ours already. */
export function unreachable(cause: unknown, method: string, path: string): BambooError {
  if (cause instanceof BambooError) return cause;
  return new ConnectionError(`${method} ${path}: ${String(cause)}`, { cause });
}


/** Return an id as a part of a path; a part of no text or dots alone would lead to another route. */
export function segment(id: string): string {
  if (id === "" || id === "." || id === "..") throw new TypeError(`"${id}" is no id.`);
  return encodeURIComponent(id);
}
