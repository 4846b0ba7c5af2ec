/** Waiting: with jitter, until something wakes it, and never past an abort. */

export interface Backoff {
  /** The pause before the first retry, in milliseconds. Streams take the gateway's `retry` without it. */
  minMs?: number;
  /** The longest pause (default 30 s). */
  maxMs?: number;
}

/** Return the pause before a retry: it doubles, and half of it is chance, so that clients spread. */
export function pauseMs(failures: number, minMs: number, maxMs: number): number {
  const longest = Math.min(maxMs, minMs * 2 ** Math.min(failures, 20));
  return longest * (0.5 + Math.random() / 2);
}

/** Wait; reject with the signal's reason when it aborts. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const done = (): void => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const aborted = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/**
 * An AbortController that follows another signal. `release` lets go of that signal, which may live
 * much longer than one request.
 */
export function linked(signal: AbortSignal | undefined): {
  controller: AbortController;
  release: () => void;
} {
  const controller = new AbortController();
  const follow = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) follow();
  else signal?.addEventListener("abort", follow, { once: true });
  return { controller, release: () => signal?.removeEventListener("abort", follow) };
}

/** What a page learns of its network: it is lost, there again, or may be (shown after a sleep). */
export type NetworkChange = "offline" | "online" | "shown";

/** Call back when the page learns of its network. Outside of browsers nothing happens. */
export function onNetwork(told: (change: NetworkChange) => void): () => void {
  const target = globalThis as Partial<Pick<Window, "addEventListener" | "removeEventListener">>;
  const page = (globalThis as { document?: Document }).document;
  const tell = (event: Event): void => told(event.type as NetworkChange);
  const shown = (): void => {
    if (page?.visibilityState === "visible") told("shown");
  };
  target.addEventListener?.("online", tell);
  target.addEventListener?.("offline", tell);
  page?.addEventListener("visibilitychange", shown);
  return () => {
    target.removeEventListener?.("online", tell);
    target.removeEventListener?.("offline", tell);
    page?.removeEventListener("visibilitychange", shown);
  };
}
