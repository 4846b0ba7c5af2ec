/** One session: its conversation, live, and beside it what is known about it. */

import * as actions from "./actions.js";
import { requestForm, requestNote } from "./answers.js";
import { address, at, get, isShared, mayAnswer, newKey, post } from "./api.js";
import { composer, stopRuns } from "./composer.js";
import { Conversation } from "./conversation.js";
import { attempt, copy, counted, fromTemplate, h, notice, stateOf, timeOf, words } from "./dom.js";
import { Live } from "./live.js";
import { render, textOf } from "./messages.js";
import { connectionsPanel, eventsPanel, runsPanel } from "./runs.js";
import { treePanel } from "./tree.js";

/** @typedef {import("./api.js").Message} Message */
/** @typedef {import("./api.js").LogEvent} LogEvent */

/** How many messages are loaded at once: what a first look needs, and little to lay out. */
const PAGE = 50;
const AT_END_PX = 60;
/** A page that is left open for days keeps so many messages, while their end is looked at. */
const MESSAGES_MAX = 400;
const MESSAGES_KEPT = 200;

const PANELS = /** @type {Record<string, (session: SessionView) => { element: Node, event?: (event: LogEvent, position: string) => void, close?: () => void }>} */ ({
  runs: runsPanel,
  events: eventsPanel,
  tree: treePanel,
  people: connectionsPanel,
});

export class SessionView extends HTMLElement {
  announcer = /** @type {HTMLElement} */ (h("p", { class: "hidden", role: "status" }));
  /** @type {string} */ sessionId = "";
  /** @type {any} */ session = null;
  conversation = new Conversation();
  /** @type {Map<string, HTMLElement>} */ items = new Map();
  /** @type {Live | null} */ live = null;
  hasOlder = false;
  isLoadingOlder = false;
  isDrawing = false;
  branched = false;
  /** @type {Set<number>} */ timers = new Set();
  /** @type {Record<string, any>} */ parts = {};
  /** @type {ReturnType<typeof composer> | null} */ composer = null;
  /** @type {{ element: Node, event?: (event: LogEvent, position: string) => void, close?: () => void } | null} */ panel = null;

  connectedCallback() {
    const { root, part } = fromTemplate("session-page");
    this.parts = part;
    this.append(root);
    this.append(this.announcer);
    if (!isShared()) {
      this.composer = composer(this.sessionId, {
        sent: () => this.toEnd(),
        stop: () => void attempt(() => stopRuns(this.sessionId)),
      });
      part.composer.append(this.composer.form);
    }
    part.scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#button("older").addEventListener("click", () => void this.#loadOlder());
    this.#button("newest").addEventListener("click", () => this.toEnd());
    const tabs = /** @type {HTMLButtonElement[]} */ ([...this.querySelectorAll("[role=tab]")]);
    const shown = tabs.filter((tab) => !isShared() || !["runs", "people"].includes(tab.dataset.panel ?? ""));
    for (const tab of tabs) {
      tab.hidden = !shown.includes(tab);
      tab.addEventListener("click", () => this.#select(shown, tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = shown[(shown.indexOf(tab) + step + shown.length) % shown.length];
        this.#select(shown, next);
        next.focus();
      });
    }
    this.live = new Live({
      url: (cursor) => address(at`/stream/${this.sessionId}`, { after: cursor, heartbeat: "event" }),
      onEvent: (event) => this.#receive(event),
      onReset: () => void this.#load(),
      onState: (state) => this.#showLive(state),
      probe: async () => {
        await this.#refresh();
        return !["closed", "archived", "expired"].includes(this.session.state);
      },
      onLost: (error) => this.#lost(error),
    });
    void this.#load().then(() => this.isConnected && this.#select(shown, shown[0]));
  }

  disconnectedCallback() {
    this.live?.close();
    this.panel?.close?.();
    for (const timer of this.timers) clearTimeout(timer);
  }

  /** Load what a first look needs, and follow what comes after it. */
  async #load() {
    this.live?.stop();
    try {
      const [session, page] = await Promise.all([
        get(at`/sessions/${this.sessionId}`),
        get(at`/sessions/${this.sessionId}/messages`, { order: "desc", limit: PAGE }),
      ]);
      if (!this.isConnected) return;
      this.session = session;
      this.conversation = new Conversation();
      this.conversation.prepend(page.messages.reverse());
      this.conversation.loadedSeq = Number(page.position.split("-")[1]);
      this.conversation.activeRun = session.active_run_id;
      // After a refusal that has passed.
      if (this.composer && !this.composer.form.isConnected) this.parts.composer.append(this.composer.form);
      this.hasOlder = page.has_more;
      this.items.clear();
      this.parts.messages.replaceChildren();
      this.#showSession();
      this.#draw();
      this.toEnd();
      void this.#showRequests();
      const after = new URL(page.stream_url, location.href).searchParams.get("after") ?? page.position;
      this.live?.start(after);
    } catch (error) {
      if (this.isConnected) this.#lost(error);
    }
  }

  /** @param {unknown} error */
  #lost(error) {
    const status = /** @type {any} */ (error)?.status;
    if (status === 401 && !isShared()) return; // the login is shown
    if (!this.session || [401, 403, 404, 410].includes(status)) {
      this.parts.state.replaceChildren();
      this.parts.actions.replaceChildren();
      this.parts.requests.replaceChildren();
      this.parts.composer.replaceChildren();
      const title = status === 404 ? "There is no such session" : "This session cannot be shown";
      this.parts.title.textContent = title;
      this.parts.meta.replaceChildren(h("span", { class: "error" }, words(error), " "), h("button", { type: "button", on: { click: () => void this.#load() } }, "Try again"), " ", isShared() ? "" : h("a", { href: "#/" }, "All sessions"));
    } else {
      notice(words(error), "error");
      // The gateway may be away for a while.
      this.#later(2_000, () => void this.#load());
    }
  }

  /** @param {LogEvent} event */
  #receive(event) {
    const conversation = this.conversation;
    if (event.type === "branch_started") this.branched = true;
    const more = conversation.apply(event);
    if (more === "reload") {
      void this.#load();
      return;
    }
    if (more === "requests") void this.#showRequests();
    if (more) {
      this.#showActive();
      this.#refreshSoon();
    }
    if (["complete", "error", "cancelled"].includes(event.type)) {
      const said = { complete: "The agent has answered.", error: "The run has failed.", cancelled: "The run was stopped." };
      this.announcer.textContent = said[/** @type {"complete" | "error" | "cancelled"} */ (event.type)];
      if (this.branched) void this.#loadSiblings();
    }
    this.panel?.event?.(event, `${this.live?.cursor ?? ""}`);
    this.#drawSoon();
  }

  #drawSoon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      if (this.isConnected) this.#draw();
    });
  }

  /** Show what has changed since the last time. */
  #draw() {
    const { conversation } = this;
    const atEnd = this.#isAtEnd();
    if (atEnd && conversation.messages.length > MESSAGES_MAX) {
      conversation.trim(MESSAGES_KEPT);
      this.hasOlder = true;
    }
    if (conversation.isReordered) {
      conversation.isReordered = false;
      const callIds = new Set(conversation.messages.flatMap((message) => (message.tool_calls ?? []).map((call) => call.id)));
      // The result of a call is shown with the call.
      const shown = conversation.messages.filter((message) => !(message.role === "tool" && callIds.has(message.tool_call_id)));
      const ids = new Set(shown.map((message) => message.id));
      for (const [id, item] of this.items) {
        if (ids.has(id)) continue;
        item.remove();
        this.items.delete(id);
      }
      let next = this.parts.messages.firstElementChild;
      for (const message of shown) {
        let item = this.items.get(message.id);
        if (!item) {
          item = /** @type {HTMLElement} */ (h("li", { "data-message": message.id }));
          this.items.set(message.id, item);
          conversation.changed.add(message.id);
        }
        if (item === next) next = item.nextElementSibling;
        else this.parts.messages.insertBefore(item, next);
      }
    }
    for (const id of conversation.changed) {
      const item = this.items.get(id);
      const message = conversation.find(id);
      if (item && message) render(item, message, conversation.outcomes, this.#acting());
    }
    conversation.changed.clear();
    this.#button("older").hidden = !this.hasOlder;
    if (atEnd) this.#jump();
    else this.#scrolled();
  }

  #acting() {
    if (isShared()) return null;
    return {
      regenerate: (/** @type {Message} */ message) => void attempt(() => post(at`/sessions/${this.sessionId}/regenerate`, { message_id: message.id }, { "Idempotency-Key": newKey() })),
      edit: (/** @type {Message} */ message) => this.composer?.edit(message.id, textOf(message)),
      fork: (/** @type {Message} */ message) => void attempt(() => actions.fork(this.session, message.id)),
      select: (/** @type {Message} */ message, /** @type {string} */ sibling) => void attempt(() => this.#selectSibling(message, sibling)),
    };
  }

  /** Make the branch of a sibling the current one. @param {Message} message @param {string} sibling */
  async #selectSibling(message, sibling) {
    // A sibling comes after their common parent in the order of the log.
    let after = message.parent_id ?? "";
    for (;;) {
      const page = await get(at`/sessions/${this.sessionId}/messages`, { branch: "all", after, limit: 1000 });
      const found = page.messages.find((/** @type {Message} */ one) => one.id === sibling);
      if (found) {
        await post(at`/sessions/${this.sessionId}/branches/${found.branch_id}/select`, {});
        return;
      }
      if (!page.has_more) throw new Error("This version is gone.");
      after = page.next_cursor;
    }
  }

  /** Learn which versions the shown messages have; events do not say. */
  async #loadSiblings() {
    this.branched = false;
    const page = await get(at`/sessions/${this.sessionId}/messages`, { order: "desc", limit: 2 * PAGE }).catch(() => null);
    for (const message of page?.messages ?? []) {
      const shown = this.conversation.find(message.id);
      if (!shown || !message.siblings) continue;
      shown.siblings = message.siblings;
      this.conversation.changed.add(shown.id);
    }
    this.#drawSoon();
  }

  async #loadOlder() {
    const first = this.conversation.messages[0];
    if (!first || this.isLoadingOlder || !this.hasOlder) return;
    this.isLoadingOlder = true;
    const page = await attempt(() => get(at`/sessions/${this.sessionId}/messages`, { order: "desc", limit: 2 * PAGE, before: first.id }));
    this.isLoadingOlder = false;
    if (!page || !this.isConnected) return;
    const { scroll } = this.parts;
    const below = scroll.scrollHeight - scroll.scrollTop;
    this.hasOlder = page.has_more;
    this.conversation.prepend(page.messages.reverse());
    this.#draw();
    scroll.scrollTop = scroll.scrollHeight - below;
  }

  #scrolled() {
    const { scroll } = this.parts;
    this.#button("newest").hidden = this.#isAtEnd();
    if (scroll.scrollTop < 200 && this.hasOlder && scroll.scrollHeight > scroll.clientHeight) void this.#loadOlder();
  }

  #isAtEnd() {
    const { scroll } = this.parts;
    return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < AT_END_PX;
  }

  #jump() {
    this.parts.scroll.scrollTop = this.parts.scroll.scrollHeight;
    this.#button("newest").hidden = true;
  }

  /** Show the newest messages, also when what is above them gets its height only then. */
  toEnd() {
    this.#jump();
    requestAnimationFrame(() => this.#jump());
  }

  async #showRequests() {
    const place = this.parts.requests;
    if (isShared() && this.session?.state === "archived") return;
    const found = await get(at`/sessions/${this.sessionId}/inputs`).catch(() => null);
    // What somebody has begun to write stays when the gateway is away.
    if (!found || !this.isConnected) return;
    const { inputs } = found;
    const atEnd = this.#isAtEnd();
    const shown = new Map([...place.children].map((element) => [element.dataset.request, element]));
    // A form that somebody fills in stays.
    place.replaceChildren(...inputs.map((/** @type {any} */ request) => {
      const before = shown.get(request.request_id);
      if (before) return before;
      const form = mayAnswer() ? requestForm(this.sessionId, request, () => void this.#showRequests()) : requestNote(request);
      form.dataset.request = request.request_id;
      return form;
    }));
    if (atEnd) this.toEnd();
  }

  #refreshSoon() {
    this.#later(300, () => void this.#refresh().catch(() => undefined));
  }

  async #refresh() {
    this.session = await get(at`/sessions/${this.sessionId}`);
    if (this.isConnected) this.#showSession();
  }

  /** @param {number} ms @param {() => void} work */
  #later(ms, work) {
    const timer = window.setTimeout(() => {
      this.timers.delete(timer);
      if (this.isConnected) work();
    }, ms);
    this.timers.add(timer);
  }

  #showSession() {
    const { session, parts: part } = this;
    part.title.textContent = session.title || "Untitled";
    document.title = `${session.title || session.id} – Bamboo console`;
    part.state.replaceChildren(stateOf(session.state));
    part.meta.replaceChildren(
      h("code", { title: "Id" }, session.id),
      session.user_id ? h("span", {}, `user ${session.user_id}`) : "",
      h("span", {}, counted(session.message_count, "message")),
      session.usage?.total_tokens ? h("span", {}, counted(session.usage.total_tokens, "token")) : "",
      h("span", {}, "created ", timeOf(session.created_at)),
      session.parent && !isShared() ? h("a", { href: at`#/sessions/${session.parent.session_id}` }, "forked from ", session.parent.session_id) : "",
      isShared() ? h("span", { class: "state" }, "read only") : "",
    );
    this.#showActive();
    if (!isShared() && !part.actions.contains(document.activeElement)) this.#showActions();
    const takes = !["closed", "archived", "expired"].includes(session.state);
    part.composer.hidden = !takes;
  }

  #showActive() {
    const { conversation } = this;
    this.composer?.showActive(Boolean(conversation.activeRun) || conversation.queued.size > 0);
    this.parts.messages.classList.toggle("working", Boolean(conversation.activeRun));
    const failed = conversation.failure ? h("p", { class: "error", role: "alert", "data-failure": true }, conversation.failure) : null;
    this.querySelector("[data-failure]")?.remove();
    if (failed) this.parts.messages.after(failed);
  }

  #showActions() {
    const { session } = this;
    /** @param {string} label @param {() => Promise<any>} act @param {string} [kind] */
    const button = (label, act, kind = "quiet") => {
      const made = h("button", { type: "button", class: kind, on: { click: () => void attempt(act, made).then(() => this.#refreshSoon()) } }, label);
      return made;
    };
    const { state } = session;
    const away = async () => {
      location.hash = "#/";
    };
    this.parts.actions.replaceChildren(
      button("Rename", () => actions.rename(session)),
      button("Share", () => actions.share(session)),
      button("Export", () => actions.exportOne(session)),
      button("Fork", () => actions.fork(session)),
      h(
        "details",
        { class: "menu" },
        h("summary", {}, "More"),
        h(
          "div",
          {},
          button("Copy the id", () => copy(session.id)),
          button("Merge another session…", () => actions.merge(session)),
          state === "archived" ? button("Restore", () => actions.move(session, "restore").then(() => this.#load())) : button("Archive", () => actions.move(session, "archive").then(() => this.#load())),
          state === "closed" || state === "expired" ? button("Reopen", () => actions.move(session, "reopen").then(() => this.#load())) : "",
          !["closed", "expired", "archived"].includes(state) ? button("Close", () => actions.move(session, "close")) : "",
          button("Delete…", () => actions.remove([session]).then((done) => (done ? away() : undefined)), "danger"),
        ),
      ),
    );
  }

  /** @param {"live" | "connecting" | "ended"} state */
  #showLive(state) {
    this.parts.live.dataset.state = state;
    // Who watches makes a part of the state.
    if (state === "live") this.#refreshSoon();
    this.parts.live.textContent = { live: "live", connecting: "connecting…", ended: "not live" }[state];
  }

  /** @param {HTMLButtonElement[]} tabs @param {HTMLButtonElement} tab */
  #select(tabs, tab) {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
    }
    this.panel?.close?.();
    this.panel = PANELS[tab.dataset.panel ?? "events"](this);
    this.parts.panel.setAttribute("aria-labelledby", tab.id);
    this.parts.panel.replaceChildren(this.panel.element);
  }

  /** @param {string} act @returns {HTMLButtonElement} */
  #button(act) {
    return /** @type {HTMLButtonElement} */ (this.querySelector(`[data-act=${act}]`));
  }
}

customElements.define("bamboo-session", SessionView);
