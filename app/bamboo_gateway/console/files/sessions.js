/** The list of sessions: live, filtered, searched; and what can be done with many of them. */

import * as actions from "./actions.js";
import { address, at, get, post } from "./api.js";
import { attempt, counted, fromTemplate, h, stateOf, timeOf, words } from "./dom.js";
import { Live } from "./live.js";

/** @typedef {import("./api.js").Session} Session */

const PAGE = 50;
/** Typing and changes of many sessions at once become one request. */
const PAUSE_MS = 250;
const CHANGES_MS = 700;
const LIMIT_MAX = 1000;

export class SessionsView extends HTMLElement {
  /** @type {Map<string, Session>} */ shown = new Map();
  /** @type {Map<string, Session>} */ selected = new Map();
  /** @type {Live | null} */ live = null;
  /** @type {string | null} */ next = null;
  /** @type {number | undefined} */ timer = undefined;
  generation = 0;
  /** @type {Record<string, any>} */ parts = {};

  connectedCallback() {
    const { root, part } = fromTemplate("sessions-page");
    this.parts = part;
    this.append(root);
    document.title = "Sessions – Bamboo console";
    this.#restore();
    this.form.addEventListener("input", () => this.#changed());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", () => setTimeout(() => this.#changed()));
    this.#on("new", () => actions.create());
    this.#on("more", () => this.#load(this.shown.size + PAGE));
    this.#on("archive", async () => {
      actions.toldArchived(await post("/archive", { session_ids: [...this.selected.keys()] }));
      this.#selectNone();
      await this.#load();
    });
    this.#on("export", () => actions.exportMany([...this.selected.keys()]));
    this.#on("delete", async () => {
      if (!(await actions.remove([...this.selected.values()]))) return;
      this.#selectNone();
      await this.#load();
    });
    this.#on("none", async () => this.#selectNone());
    this.#act("all").addEventListener("change", () => {
      this.selected = /** @type {any} */ (this.#act("all")).checked ? new Map(this.shown) : new Map();
      this.#draw();
    });
    this.live = new Live({
      url: (cursor) => address("/changes", { after: cursor, heartbeat: "event", user_id: this.#filters().user_id, session_type: this.#filters().session_type }),
      onEvent: () => this.#loadSoon(CHANGES_MS),
      onReset: () => {
        void this.#load();
        this.live?.start("");
      },
      onState: (state) => {
        this.parts.live.dataset.state = state;
        this.parts.live.textContent = { live: "live", connecting: "connecting…", ended: "not live" }[state];
        // What happened while the stream was away may be before its new beginning.
        if (state === "live") this.#loadSoon(0);
      },
      probe: async () => {
        await get("/sessions", { limit: 1, count: false });
        return true;
      },
      onLost: () => undefined,
    });
    void this.#load();
    this.live.start("");
  }

  disconnectedCallback() {
    this.live?.close();
    clearTimeout(this.timer);
  }

  /** @returns {HTMLFormElement} */
  get form() {
    return /** @type {HTMLFormElement} */ (this.querySelector("form"));
  }

  #filters() {
    /** @type {Record<string, string>} */
    const filters = {};
    for (const [name, value] of new FormData(this.form)) {
      const text = String(value).trim();
      if (text) filters[name] = name.endsWith("_after") ? new Date(text).toISOString() : text;
    }
    return filters;
  }

  /** The filters are in the address, so that going back finds them again. */
  #restore() {
    const query = new URLSearchParams(location.hash.split("?")[1] ?? "");
    for (const [name, value] of query) {
      const field = /** @type {HTMLInputElement | null} */ (this.form.elements.namedItem(name));
      if (field) field.value = value;
    }
  }

  #changed() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) if (value) query.set(name, String(value));
    query.delete("sort_by", "last_activity_at");
    query.delete("sort_order", "desc");
    history.replaceState(null, "", `#/${query.size ? `?${query}` : ""}`);
    this.next = null;
    this.shown.clear();
    this.#loadSoon(PAUSE_MS);
    this.live?.start("");
  }

  /** @param {number} ms */
  #loadSoon(ms) {
    if (this.timer !== undefined && ms >= CHANGES_MS) return; // one is coming
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      this.timer = undefined;
      void this.#load();
    }, ms);
  }

  /** Load the list, as long as it is shown. @param {number} [count] */
  async #load(count = Math.max(PAGE, this.shown.size)) {
    this.generation += 1;
    const mine = this.generation;
    const filters = this.#filters();
    try {
      const [page, found] = await Promise.all([
        get("/sessions", { ...filters, limit: Math.min(count, LIMIT_MAX) }),
        filters.q ? get("/search", { q: filters.q, user_id: filters.user_id, limit: 20 }) : { results: [] },
      ]);
      if (mine !== this.generation || !this.isConnected) return;
      this.shown = new Map(page.sessions.map((/** @type {Session} */ session) => [session.id, session]));
      for (const id of this.selected.keys()) {
        const session = this.shown.get(id);
        if (session) this.selected.set(id, session);
      }
      this.next = page.has_more && page.sessions.length < LIMIT_MAX ? page.next_cursor : null;
      this.parts.total.textContent = page.total === undefined || page.total === null ? "" : `${counted(page.sessions.length, "session")} of ${page.total.toLocaleString()}`;
      this.#showEmpty(page.sessions.length ? "" : Object.keys(filters).length > 2 ? "No session matches." : "No session yet. A first chat makes one.");
      this.#showHits(found.results);
      this.#draw();
    } catch (error) {
      if (mine !== this.generation || !this.isConnected) return;
      this.#showEmpty(words(error), true);
    }
  }

  /** @param {string} text @param {boolean} [isError] */
  #showEmpty(text, isError = false) {
    this.parts.empty.hidden = !text;
    this.parts.empty.textContent = text;
    this.parts.empty.className = isError ? "error" : "empty";
  }

  /** @param {any[]} results */
  #showHits(results) {
    const { hits } = this.parts;
    hits.hidden = !results.length;
    hits.replaceChildren(
      h("h2", {}, `Messages found${results.length >= 20 ? ", the newest 20" : ""}`),
      h("ul", { class: "plain" }, results.map((one) => h("li", {}, h("a", { href: at`#/sessions/${one.session_id}` }, one.title || one.session_id), " ", h("span", { class: "meta" }, one.role, " ", timeOf(one.created_at)), h("p", {}, marked(one.snippet, one.ranges))))),
    );
  }

  #draw() {
    const body = /** @type {HTMLElement} */ (this.querySelector("tbody"));
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.closest("tr")?.dataset.session;
    const inBox = document.activeElement instanceof HTMLInputElement;
    body.replaceChildren(...[...this.shown.values()].map((session) => this.#row(session)));
    if (focused) /** @type {HTMLElement | null} */ (body.querySelector(`[data-session="${CSS.escape(focused)}"] ${inBox ? "input" : "a"}`))?.focus();
    this.#act("more").hidden = this.next === null;
    const count = this.selected.size;
    this.parts.bulk.hidden = count === 0;
    this.parts.count.textContent = `${counted(count, "session")} selected`;
    /** @type {HTMLInputElement} */ (this.#act("all")).checked = count > 0 && [...this.shown.keys()].every((id) => this.selected.has(id));
  }

  /** @param {Session} session */
  #row(session) {
    const title = session.title || "Untitled";
    const box = h("input", { type: "checkbox", checked: this.selected.has(session.id), "aria-label": `Select ${title}`, on: { change: () => {
      if (box.checked) this.selected.set(session.id, session);
      else this.selected.delete(session.id);
      this.#draw();
    } } });
    return h(
      "tr",
      { "data-session": session.id },
      h("td", {}, box),
      h("td", { class: "wide" }, h("a", { href: at`#/sessions/${session.id}` }, title), session.preview ? h("p", { class: "preview-text" }, session.preview) : "", h("code", { class: "meta" }, session.id)),
      h("td", {}, stateOf(session.state)),
      h("td", {}, session.user_id ?? "–"),
      h("td", { class: "number" }, session.message_count.toLocaleString()),
      h("td", {}, timeOf(session.last_activity_at)),
    );
  }

  #selectNone() {
    this.selected.clear();
    this.#draw();
  }

  /** @param {string} name @returns {HTMLElement} */
  #act(name) {
    return /** @type {HTMLElement} */ (this.querySelector(`[data-act=${name}]`));
  }

  /** @param {string} name @param {() => Promise<any>} work */
  #on(name, work) {
    const button = /** @type {HTMLButtonElement} */ (this.#act(name));
    button.addEventListener("click", () => void attempt(work, button));
  }
}

/** Return a snippet with its hits marked. Ranges count code points. @param {string} snippet @param {number[][]} ranges */
function marked(snippet, ranges) {
  const letters = [...snippet];
  /** @type {(Node | string)[]} */
  const found = [];
  let from = 0;
  for (const [start, end] of ranges) {
    found.push(letters.slice(from, start).join(""), h("mark", {}, letters.slice(start, end).join("")));
    from = end;
  }
  found.push(letters.slice(from).join(""));
  return found;
}

customElements.define("bamboo-sessions", SessionsView);
