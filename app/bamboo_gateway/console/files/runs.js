/** Beside a conversation: the timeline of its runs, its log, and who is connected. */

import { at, call, get } from "./api.js";
import { attempt, counted, duration, h, svg, timeOf, words } from "./dom.js";
import { value } from "./messages.js";

/** @typedef {import("./session.js").SessionView} SessionView */
/** @typedef {import("./api.js").LogEvent} LogEvent */

const RUNS = 20;
const EVENTS = 100;
/** More rows would slow the page while an answer streams; older ones are read again on demand. */
const ROWS_MAX = 500;
const CONNECTIONS_MS = 3_000;
const DELTAS = ["token", "thinking", "tool_delta"];

/** The timeline. @param {SessionView} view */
export function runsPanel(view) {
  const list = h("ol", { class: "runs" });
  const element = h("div", {}, h("h2", {}, "Runs"), h("p", { class: "legend" }, h("span", { class: "waits" }, "waits"), h("span", { class: "thinks" }, "until the first word"), h("span", { class: "tools" }, "tools"), h("span", { class: "speaks" }, "speaks")), list);
  /** @type {Map<string, any>} What happened in runs that have ended. */
  const known = new Map();
  /** @type {number | undefined} */
  let timer;

  async function load() {
    timer = undefined;
    try {
      const { runs } = await get(at`/sessions/${view.sessionId}/runs`, { order: "desc", limit: RUNS });
      const found = await Promise.all(runs.map(async (/** @type {any} */ run) => {
        if (!known.has(run.run_id)) {
          const inside = await momentsOf(view.sessionId, run);
          if (!run.ended_at) return inside;
          known.set(run.run_id, inside);
        }
        return known.get(run.run_id);
      }));
      const longest = Math.max(1, ...runs.map(lengthOf));
      list.replaceChildren(...runs.map((/** @type {any} */ run, /** @type {number} */ index) => runItem(run, found[index], longest)));
      if (!runs.length) list.replaceChildren(h("li", { class: "empty" }, "No run yet."));
    } catch (error) {
      list.replaceChildren(h("li", { class: "error" }, words(error)));
    }
  }
  void load();
  return {
    element,
    /** @param {LogEvent} event */
    event(event) {
      if (!DELTAS.includes(event.type)) timer ??= window.setTimeout(() => void load(), 400);
    },
    close: () => clearTimeout(timer),
  };
}

/** @param {any} run */
function lengthOf(run) {
  const end = run.ended_at ? Date.parse(run.ended_at) : Date.now();
  return Math.max(1, end - Date.parse(run.created_at));
}

/** Find when a run said its first word, and when its tools worked. @param {string} id @param {any} run */
async function momentsOf(id, run) {
  if (!run.started_at) return { first: null, tools: [] };
  const path = at`/sessions/${id}/events`;
  /** @param {string} types @param {number} limit */
  const read = (types, limit) => get(path, { after: run.position, type: types, limit }).catch(() => ({ events: [] }));
  const [spoken, used] = await Promise.all([read("token", 1), read("tool_start,tool_complete,tool_error", 200)]);
  const own = (/** @type {LogEvent} */ event) => event.run_id === run.run_id;
  const first = spoken.events.filter(own)[0]?.time ?? null;
  /** @type {any[]} */
  const tools = [];
  for (const event of used.events.filter(own)) {
    if (event.type === "tool_start") tools.push({ id: event.tool_call_id, name: event.tool_name, from: event.time, to: null });
    else {
      const open = tools.find((tool) => tool.id === event.tool_call_id);
      if (open) open.to = event.time;
    }
  }
  return { first, tools };
}

/** @param {any} run @param {any} inside @param {number} longest */
function runItem(run, inside, longest) {
  const begin = Date.parse(run.created_at);
  const end = run.ended_at ? Date.parse(run.ended_at) : Date.now();
  const started = run.started_at ? Date.parse(run.started_at) : end;
  const first = inside.first ? Math.min(end, Date.parse(inside.first)) : null;
  /** @param {number} time */
  const x = (time) => ((time - begin) / longest) * 1000;
  /** @param {string} kind @param {number} from @param {number} to @param {string} title @param {number} [y] @param {number} [height] */
  const bar = (kind, from, to, title, y = 2, height = 16) =>
    svg("rect", { class: kind, x: x(from), y, width: Math.max(3, x(to) - x(from)), height }, svg("title", {}, title));
  const bars = [];
  if (started > begin) bars.push(bar("waits", begin, started, `waits ${duration(started - begin)}`));
  if (run.started_at) {
    bars.push(bar("thinks", started, first ?? end, first ? `first word after ${duration(first - started)}` : "no word"));
    if (first) bars.push(bar("speaks", first, end, `speaks ${duration(end - first)}`));
  }
  for (const tool of inside.tools) {
    const to = tool.to ? Date.parse(tool.to) : end;
    bars.push(bar("tools", Date.parse(tool.from), to, `${tool.name} ${duration(to - Date.parse(tool.from))}`, 14, 8));
  }
  const facts = [
    first ? `first word after ${duration(first - started)}` : "",
    inside.tools.length ? counted(inside.tools.length, "tool call") : "",
    `${run.ended_at ? "ended after" : "for"} ${duration(end - begin)}`,
    run.usage?.total_tokens ? counted(run.usage.total_tokens, "token") : "",
    run.finish_reason && run.finish_reason !== "stop" ? run.finish_reason.replace("_", " ") : "",
  ].filter(Boolean).join(", ");
  return h(
    "li",
    {},
    h("div", { class: "bar" }, h("strong", {}, run.agent), h("span", { class: `state ${run.status}` }, run.status), h("span", { class: "grow" }), timeOf(run.created_at)),
    svg("svg", { viewBox: "0 0 1000 24", preserveAspectRatio: "none", role: "img", "aria-label": `${run.agent}, ${run.status}: ${facts}` }, bars),
    h("p", { class: "meta" }, facts),
    run.error ? h("p", { class: "error" }, `${run.error.message} (${run.error.code})`) : "",
    h("code", { class: "meta" }, run.run_id),
  );
}

/** The raw log. @param {SessionView} view */
export function eventsPanel(view) {
  const list = h("ol", { class: "events", "aria-label": "Events, the newest first" });
  const hides = h("input", { type: "checkbox" });
  const older = h("button", { type: "button", class: "quiet", hidden: true }, "Older events");
  const element = h("div", {}, h("div", { class: "bar" }, h("h2", {}, "Events"), h("span", { class: "grow" }), h("label", { class: "check" }, hides, "without deltas")), list, h("div", { class: "pager" }, older));
  let next = "";
  let oldest = 0;
  let newest = 0;
  /** @type {HTMLElement[]} */
  let waiting = [];
  let generation = 0;

  /** @param {boolean} again */
  async function load(again) {
    const mine = again ? (generation += 1) : generation;
    const type = hides.checked ? "message,tool_start,tool_complete,tool_error,run_queued,run_start,complete,error,cancelled,input_required,input_given,input_closed,state_change,session_created,session_updated,session_forked,session_merged,summary_saved,branch_started,branch_selected,extensions_updated,session_shared,share_revoked,custom" : "";
    const page = await get(at`/sessions/${view.sessionId}/events`, { order: "desc", limit: EVENTS, after: again ? "" : next, type });
    if (mine !== generation) return;
    if (again) {
      waiting = [];
      // What came while the page was on its way is newer than all of it, and stays.
      const read = page.events[0]?.seq ?? 0;
      for (const item of /** @type {HTMLElement[]} */ ([...list.children])) if (!(Number(item.dataset.seq) > read)) item.remove();
      oldest = 0;
      newest = Math.max(read, Number(/** @type {HTMLElement | null} */ (list.firstElementChild)?.dataset.seq ?? 0));
    }
    for (const event of page.events) {
      if (oldest) addGap(event.seq, oldest);
      oldest = event.seq;
      list.append(row(event));
    }
    next = page.next;
    older.hidden = !page.has_more;
    if (!page.has_more && oldest > 1) addGap(0, oldest);
  }

  /** Say that positions have no event between two of them. @param {number} before @param {number} after */
  function addGap(before, after) {
    if (hides.checked || after - before <= 1) return;
    list.append(h("li", { class: "gap" }, `${counted(after - before - 1, "position")} without an event: deltas that have left the log`));
  }

  const epoch = () => (view.session?.position ?? "").split("-")[0];

  /** @param {LogEvent} event @param {string} [position] */
  function row(event, position) {
    const shown = position || `${epoch()}-${event.seq}`;
    const details = h("details", {}, h("summary", {}, h("code", {}, shown), h("span", { class: "type" }, event.type), h("span", { class: "brief" }, brief(event))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(value(event));
    });
    return h("li", { "data-seq": event.seq }, details);
  }

  hides.addEventListener("change", () => void attempt(() => load(true)));
  older.addEventListener("click", () => void attempt(() => load(false), older));
  void attempt(() => load(true));
  return {
    element,
    /** @param {LogEvent} event @param {string} position */
    event(event, position) {
      if (event.seq <= newest || (hides.checked && DELTAS.includes(event.type))) return;
      newest = event.seq;
      waiting.push(row(event, position));
      if (waiting.length > 1) return;
      requestAnimationFrame(() => {
        list.prepend(...waiting.reverse());
        waiting = [];
        let cut = false;
        while (list.children.length > ROWS_MAX) {
          list.lastElementChild?.remove();
          cut = true;
        }
        if (!cut) return;
        // The older ones begin anew behind the last row.
        while (list.lastElementChild?.className === "gap") list.lastElementChild.remove();
        oldest = Number(/** @type {HTMLElement} */ (list.lastElementChild).dataset.seq);
        next = `${epoch()}-${oldest}`;
        older.hidden = false;
      });
    },
  };
}

/** @param {LogEvent} event */
function brief(event) {
  const text = event.content ?? event.tool_name ?? event.message?.role ?? event.finish_reason ?? event.code ?? event.name ?? event.title ?? event.agent ?? "";
  return typeof text === "string" ? text.slice(0, 80) : "";
}

/** Who is connected. @param {SessionView} view */
export function connectionsPanel(view) {
  const body = h("tbody");
  const element = h("div", {}, h("h2", {}, "Connected"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Connections" }, h("table", {}, h("thead", {}, h("tr", {}, ["Connection", "Since", "Behind", ""].map((name) => h("th", { scope: "col" }, name || h("span", { class: "hidden" }, "Actions"))))), body)));
  async function load() {
    try {
      const { connections } = await get(at`/sessions/${view.sessionId}/connections`, { limit: 100 });
      if (body.contains(document.activeElement)) return;
      body.replaceChildren(...connections.map((/** @type {any} */ one) => {
        const end = h("button", { type: "button", class: "quiet", on: { click: () => void attempt(() => call("DELETE", at`/sessions/${view.sessionId}/connections/${one.connection_id}`).then(() => {
          end.blur();
          return load();
        }), end) } }, "Disconnect");
        return h("tr", {}, h("td", {}, h("code", {}, one.connection_id), h("br"), h("small", {}, one.remote_address ?? "")), h("td", {}, timeOf(one.since)), h("td", {}, counted(one.lag_events, "event")), h("td", {}, end));
      }));
      if (!connections.length) body.replaceChildren(h("tr", {}, h("td", { colspan: 4 }, "Nobody.")));
    } catch (error) {
      body.replaceChildren(h("tr", {}, h("td", { colspan: 4, class: "error" }, words(error))));
    }
  }
  void load();
  const timer = setInterval(() => document.visibilityState === "visible" && void load(), CONNECTIONS_MS);
  return { element, close: () => clearInterval(timer) };
}
