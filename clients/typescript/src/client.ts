/** The client: what concerns many sessions, and the handle of one. */
import { EventStream, type StreamOptions } from "./event-stream.js";
import { SessionHandle } from "./session.js";
import { segment, Transport, type Call, type ClientOptions } from "./transport.js";
import type {
  Agent,
  ChangeEvent,
  ChangePage,
  ChatAccepted,
  ChatInput,
  FilePage,
  GatewayFile,
  JointEvent,
  Query,
  Said,
  SearchResult,
  SearchResults,
  Session,
  SessionInput,
  SessionPage,
} from "./types.js";

/** Taken by every call. */
export interface CallOptions {
  signal?: AbortSignal;
}

/** Taken by every call that changes something. */
export interface ChangeOptions extends CallOptions {
  /** A repeat with this key and the same body does nothing, and gets the first answer. */
  idempotencyKey?: string;
}

export type ChatOptions = ChangeOptions & Omit<ChatInput, "message" | "session_id">;

/** One gateway, as one caller. It holds no connection and needs no closing. */
export class BambooClient {
  readonly #transport: Transport;

  constructor(options: ClientOptions = {}) {
    this.#transport = new Transport(options);
  }

  /** Return the handle of a session; it asks the gateway nothing. */
  session(id: string): SessionHandle {
    return new SessionHandle(this.#transport, id);
  }

  /** Say something, in a new session unless `session_id` names one. It is sent again until it is known to be there, once. */
  chat(message: Said, options: ChatOptions & { session_id?: string } = {}): Promise<ChatAccepted> {
    const { signal, idempotencyKey = true, ...input } = options;
    const json = { message, ...input };
    return this.#transport.json("POST", "/chat", { json, idempotencyKey, signal });
  }

  createSession(input: SessionInput = {}, options: ChangeOptions = {}): Promise<Session> {
    const { signal, idempotencyKey = true } = options;
    return this.#transport.json("POST", "/sessions", { json: input, idempotencyKey, signal });
  }

  /** One page of the sessions. */
  sessions(query: Query<"listSessions"> = {}, options: CallOptions = {}): Promise<SessionPage> {
    return this.#transport.json("GET", "/sessions", { query, ...options });
  }

  /** All sessions that pass the filter, page by page. */
  async *allSessions(
    query: Query<"listSessions"> = {},
    options: CallOptions = {},
  ): AsyncGenerator<Session, void, undefined> {
    let cursor: string | null | undefined = query.cursor;
    do {
      const asked = { count: false, ...query, ...(cursor ? { cursor } : {}) };
      const page: SessionPage = await this.sessions(asked, options);
      yield* page.sessions;
      cursor = page.has_more ? page.next_cursor : null;
    } while (cursor);
  }

  /** Find messages, newest first, page by page. */
  async *search(
    query: Query<"search">,
    options: CallOptions = {},
  ): AsyncGenerator<SearchResult, void, undefined> {
    let cursor: string | null | undefined = query.cursor;
    do {
      const asked = { ...query, ...(cursor ? { cursor } : {}) };
      const call = { query: asked, ...options };
      const page: SearchResults = await this.#transport.json("GET", "/search", call);
      yield* page.results;
      cursor = page.has_more ? page.next_cursor : null;
    } while (cursor);
  }

  async agents(options: CallOptions = {}): Promise<Agent[]> {
    const page = await this.#transport.json<{ agents: Agent[] }>("GET", "/agents", options);
    return page.agents;
  }

  /** Which sessions have changed after a cursor; without one, the cursor of now. */
  changes(query: Query<"listChanges"> = {}, options: CallOptions = {}): Promise<ChangePage> {
    const { wait, ...rest } = query;
    const extraMs = (wait ?? 0) * 1000;
    return this.#transport.json("GET", "/changes", { query: { wait, ...rest }, extraMs, ...options });
  }

  /** The same as one endless stream; after a `reset` list the sessions again. */
  streamChanges(
    query: Omit<Query<"listChanges">, "wait" | "limit"> = {},
    options: StreamOptions = {},
  ): EventStream<ChangeEvent> {
    return new EventStream(this.#transport, { path: "/changes", query, positions: false }, options);
  }

  /**
   * The events of 1 to 32 sessions over one connection. Each is an id, or `id@position`, where that
   * session begins. After a `reset`, load the session that it names again.
   */
  streamSessions(
    sessions: readonly string[],
    options: StreamOptions & { after?: string; from?: "start" } = {},
  ): EventStream<JointEvent> {
    const { after, from, ...rest } = options;
    const query = { session_id: [...sessions], after, from };
    return new EventStream(this.#transport, { path: "/stream", query, positions: false }, rest);
  }

  /** Upload a file; messages name it: `{ type: "file", file_id }`. */
  upload(
    content: Blob | BufferSource | string,
    options: ChangeOptions & { name?: string; mediaType?: string; timeoutMs?: number } = {},
  ): Promise<GatewayFile> {
    const { signal, idempotencyKey = true, timeoutMs: extraMs = 300_000 } = options;
    const given = content as Partial<File>;
    const query = { name: options.name ?? given.name };
    const type = options.mediaType ?? (given.type || "application/octet-stream");
    const headers = { "Content-Type": type };
    const call = { query, body: content, headers, idempotencyKey, signal, extraMs };
    return this.#transport.json("POST", "/files", call);
  }

  /** The content of a file. */
  download(fileId: string, options: CallOptions & { timeoutMs?: number } = {}): Promise<Blob> {
    const { signal, timeoutMs: extraMs = 300_000 } = options;
    const path = `/files/${segment(fileId)}`;
    return this.#transport.request("GET", path, { signal, extraMs }, (answer) => answer.blob());
  }

  files(query: Query<"listFiles"> = {}, options: CallOptions = {}): Promise<FilePage> {
    return this.#transport.json("GET", "/files", { query, ...options });
  }

  deleteFile(fileId: string, options: CallOptions = {}): Promise<void> {
    return this.#transport.json("DELETE", `/files/${segment(fileId)}`, options);
  }

  /** Turn the credential into a cookie that scripts cannot read. Later clients need no `token`. */
  logIn(options: CallOptions = {}): Promise<void> {
    return this.#transport.json("POST", "/login", { idempotencyKey: true, ...options });
  }

  logOut(options: CallOptions = {}): Promise<void> {
    return this.#transport.json("POST", "/logout", { idempotencyKey: true, ...options });
  }

  /** Send any other request of the API; `path` is below `/api/v1`. A POST is repeated only with a key. */
  request<T>(method: string, path: string, call: Call = {}): Promise<T> {
    return this.#transport.json<T>(method, path, call);
  }
}
