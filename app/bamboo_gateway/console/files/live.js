/** An event stream that comes back by itself, with the last position that was shown. */

import { ApiError } from "./api.js";

/** The gateway sends a heartbeat every 15 seconds by default. After a sleep of the machine a
 * connection may look open and be dead: silence for this long opens a new one. */
const SILENCE_MS = 60_000;
const BACKOFF_MS_MAX = 10_000;

/**
 * @typedef {object} Watching
 * @property {(cursor: string) => string} url The stream's address after a cursor.
 * @property {(event: any) => void} onEvent
 * @property {() => void} onReset The cursor cannot be served: load again, then `start`.
 * @property {(state: "live" | "connecting" | "ended") => void} onState
 * @property {() => Promise<boolean>} probe Whether there is still something to watch; a refusal is raised.
 * @property {(error: ApiError) => void} onLost The stream is over for this caller.
 */

export class Live {
  /** @param {Watching} watching */
  constructor(watching) {
    this.watching = watching;
    this.cursor = "";
    /** @type {EventSource | null} */
    this.source = null;
    this.failures = 0;
    this.heard = 0;
    /** @type {number | undefined} */
    this.timer = undefined;
    this.generation = 0;
    this.look = () => this.#look();
    this.watch = setInterval(this.look, 15_000);
    window.addEventListener("online", this.look);
    document.addEventListener("visibilitychange", this.look);
  }

  /** @param {string} cursor */
  start(cursor) {
    this.cursor = cursor;
    this.#open();
  }

  /** Stop the stream; `start` may begin it again. */
  stop() {
    this.generation += 1;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.source?.close();
    this.source = null;
  }

  close() {
    this.stop();
    clearInterval(this.watch);
    window.removeEventListener("online", this.look);
    document.removeEventListener("visibilitychange", this.look);
  }

  #open() {
    this.stop();
    this.heard = Date.now();
    this.watching.onState("connecting");
    const source = new EventSource(this.watching.url(this.cursor));
    this.source = source;
    source.onmessage = (message) => {
      this.failures = 0;
      this.heard = Date.now();
      if (message.lastEventId) this.cursor = message.lastEventId;
      this.#receive(JSON.parse(message.data));
    };
    source.onerror = () => {
      if (this.source !== source) return;
      this.watching.onState("connecting");
      // Otherwise the browser reconnects by itself, with the last id.
      if (source.readyState === EventSource.CLOSED) void this.#retry();
    };
  }

  /** @param {any} event */
  #receive(event) {
    if (event.type === "open") {
      this.watching.onState("live");
    } else if (event.type === "reset") {
      this.stop();
      this.watching.onReset();
    } else if (event.type === "goodbye") {
      if (!event.retry) void this.#retry();
    } else if (event.type !== "heartbeat") {
      this.watching.onEvent(event);
    }
  }

  /** The browser has given up: find out why, since EventSource does not say. */
  async #retry() {
    this.stop();
    const generation = this.generation;
    this.failures += 1;
    try {
      const goesOn = await this.watching.probe();
      if (generation !== this.generation) return;
      if (!goesOn) {
        this.watching.onState("ended");
        return;
      }
    } catch (error) {
      if (generation !== this.generation) return;
      const isFinal = error instanceof ApiError && [401, 403, 404, 410].includes(error.status);
      if (isFinal) {
        this.watching.onState("ended");
        this.watching.onLost(error);
        return;
      }
    }
    this.watching.onState("connecting");
    const wait = Math.min(BACKOFF_MS_MAX, 250 * 2 ** this.failures) * (0.5 + Math.random() / 2);
    this.timer = setTimeout(() => this.#open(), wait);
  }

  #look() {
    if (document.visibilityState === "hidden") return;
    if (this.timer !== undefined || (this.source && Date.now() - this.heard > SILENCE_MS)) this.#open();
  }
}
