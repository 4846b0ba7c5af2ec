/** Calls of the gateway's HTTP API. The browser sends the login's cookie by itself. */

/** @typedef {{ id: string, role: string, content: any, tool_calls?: any[], tool_call_id?: string, status?: string, run_id?: string, model?: string, created_at?: string, parent_id?: string | null, branch_id?: string, siblings?: string[], metadata?: any }} Message */
/** @typedef {{ type: string, seq: number, time: string, run_id?: string, message_id?: string, [name: string]: any }} LogEvent */
/** @typedef {{ id: string, title: string | null, state: string, user_id: string | null, position: string, [name: string]: any }} Session */

/** Relative to the page: the console works below any path. */
const BASE = new URL("../api/v1/", document.baseURI);

let share = "";
let shareAnswers = false;

/**
 * Use a share link's token for all calls; empty: the login.
 * @param {string} token
 * @param {boolean} answers Whether it may answer what the agent asks.
 */
export function useShare(token, answers) {
  share = token;
  shareAnswers = answers;
}

/** Whether what the agent asks is shown with a form. */
export function mayAnswer() {
  return share === "" || shareAnswers;
}

/** Whether the page shows one session by a share link. */
export function isShared() {
  return share !== "";
}

/** A refusal of the gateway, in its own words. */
export class ApiError extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem.detail || problem.title || `The gateway answered ${status}.`);
    this.status = status;
    /** @type {string} */
    this.code = problem.code ?? "";
  }
}

/**
 * Return the address of a route.
 * @param {string} path Its variable parts are encoded (`at`).
 * @param {Record<string, any>} [query] What is empty is left out.
 */
export function address(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== null && one !== undefined) url.searchParams.append(name, String(one));
    }
  }
  if (share) url.searchParams.set("share", share);
  return url.href;
}

/** Return a path whose variable parts are encoded. @param {TemplateStringsArray} fixed @param {...string} parts */
export function at(fixed, ...parts) {
  return fixed.reduce((path, text, index) => path + encodeURIComponent(parts[index - 1]) + text);
}

/**
 * Call a route and return the JSON of its answer; null without one.
 * @param {string} method
 * @param {string} path
 * @param {{ query?: Record<string, any>, json?: any, body?: BodyInit, headers?: Record<string, string>, as?: "json" | "text" | "blob" }} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, { query, json, body, headers = {}, as = "json" } = {}) {
  if (json !== undefined) {
    body = JSON.stringify(json);
    headers = { "Content-Type": "application/json", ...headers };
  }
  const accept = as === "json" ? "application/json" : "*/*";
  /** @type {Response} */
  let response;
  try {
    response = await fetch(address(path, query), {
      method,
      body,
      headers: { Accept: accept, ...headers },
      cache: "no-store",
      referrerPolicy: "no-referrer",
    });
  } catch {
    throw new ApiError(0, { detail: "The gateway cannot be reached. Check the network and try again." });
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401) window.dispatchEvent(new Event("unauthorized"));
    throw new ApiError(response.status, problem);
  }
  if (as === "blob") return response.blob();
  const text = await response.text();
  if (as === "text") return text;
  return text ? JSON.parse(text) : null;
}

/** @param {string} path @param {Record<string, any>} [query] */
export const get = (path, query) => call("GET", path, { query });

/** @param {string} path @param {any} [json] @param {Record<string, string>} [headers] */
export const post = (path, json, headers) => call("POST", path, { json, headers });

/**
 * Return a new idempotency key. `crypto.randomUUID` is missing on pages without https.
 */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Let the browser save something as a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
