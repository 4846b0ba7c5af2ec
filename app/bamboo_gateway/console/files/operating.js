/** For those who run the gateway: health, load, webhooks, archives, cleanup, statistics. */

import { ApiError, at, call, get, newKey, post } from "./api.js";
import { chart, readMetrics } from "./charts.js";
import { ask, attempt, copy, counted, h, notice, size, timeOf, words } from "./dom.js";

const METRICS_MS = 2_000;
const DIAGNOSTICS_MS = 30_000;
const EVENTS = ["run.ended", "input.required", "session.created", "session.deleted"];

/** @param {string} title @param {...any} content */
const card = (title, ...content) => h("section", { class: "card" }, h("h2", {}, title), ...content);

/** @param {string} label @param {string[]} heads @param {any[][]} rows */
const table = (label, heads, rows) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head || h("span", { class: "hidden" }, "Actions"))))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));

export class OperatingView extends HTMLElement {
  /** @type {number[]} */ timers = [];

  connectedCallback() {
    document.title = "Operating – Bamboo console";
    this.append(h("h1", {}, "Operating"), h("div", { class: "cards" }, this.#health(), this.#load(), this.#statistics(), this.#webhooks(), this.#archives(), this.#cleanup(), this.#keys()));
  }

  disconnectedCallback() {
    for (const timer of this.timers) clearInterval(timer);
  }

  /**
   * Show what a function makes, and why it cannot.
   * @param {HTMLElement} place
   * @param {() => Promise<Node[]>} make
   */
  async #fill(place, make) {
    try {
      place.replaceChildren(...(await make()));
    } catch (error) {
      place.replaceChildren(h("p", { class: "error" }, words(error)));
    }
  }

  /** @param {() => void} work @param {number} ms */
  #every(work, ms) {
    work();
    this.timers.push(window.setInterval(() => document.visibilityState === "visible" && work(), ms));
  }

  #health() {
    const place = h("div", {}, "Loading…");
    this.#every(() => void this.#fill(place, async () => {
      const [ready, diagnostics] = await Promise.all([get("/health/ready").catch((error) => ({ status: "unavailable", detail: words(error) })), get("/diagnostics")]);
      const rank = /** @type {Record<string, number>} */ ({ fail: 0, warn: 1, ok: 2 });
      const checks = [...diagnostics.checks].sort((one, other) => rank[one.status] - rank[other.status]);
      const bad = checks.filter((check) => check.status !== "ok");
      const show = (/** @type {any} */ check) => h("li", {}, h("span", { class: `state ${check.status}` }, check.status), " ", h("strong", {}, check.name), " ", check.seen, check.action ? h("p", { class: "action" }, check.action) : "");
      return [
        h("p", {}, h("span", { class: `state ${ready.status === "ready" ? "ok" : "fail"}` }, ready.status), " ", ready.detail ?? ""),
        bad.length ? h("ul", { class: "plain" }, bad.map(show)) : h("p", {}, `All ${checks.length} checks are well.`),
        h("details", { open: /** @type {HTMLDetailsElement | null} */ (place.querySelector("details"))?.open }, h("summary", {}, "All checks"), h("ul", { class: "plain" }, checks.map(show))),
      ];
    }), DIAGNOSTICS_MS);
    return card("Health", place);
  }

  #load() {
    const perSecond = (/** @type {number} */ value) => `${value.toFixed(value < 10 ? 1 : 0)} /s`;
    const ms = (/** @type {number} */ value) => `${(value * 1000).toFixed(1)} ms`;
    const whole = (/** @type {number} */ value) => value.toLocaleString();
    const charts = {
      events: chart("Events written", perSecond),
      requests: chart("Requests", perSecond),
      runs: chart("Active runs", whole),
      streams: chart("Open streams", whole),
      commit: chart("Commit, mean", ms),
      loop: chart("Lag of the event loop, mean", ms),
    };
    const place = h("div", { class: "charts" }, Object.values(charts).map((one) => one.element));
    const failure = h("p", { class: "error", hidden: true });
    /** @type {Map<string, number> | null} */
    let before = null;
    let beforeAt = 0;
    this.#every(async () => {
      if (place.hidden) return;
      try {
        const now = readMetrics(await call("GET", "/metrics", { as: "text" }));
        const at = performance.now();
        const seconds = (at - beforeAt) / 1000;
        const last = before;
        const value = (/** @type {string} */ name) => now.get(`bamboo_${name}`) ?? 0;
        const grown = (/** @type {string} */ name) => Math.max(0, value(name) - (last?.get(`bamboo_${name}`) ?? 0));
        const mean = (/** @type {string} */ name) => grown(`${name}_sum`) / (grown(`${name}_count`) || 1);
        charts.runs.add(value("runs_active"));
        charts.streams.add(value("streams_open"));
        if (last) {
          charts.events.add(grown("store_events_total") / seconds);
          charts.requests.add(grown("requests_total") / seconds);
          charts.commit.add(mean("commit_seconds"));
          charts.loop.add(mean("loop_lag_seconds"));
        }
        before = now;
        beforeAt = at;
        failure.hidden = true;
      } catch (error) {
        failure.hidden = false;
        failure.textContent = words(error);
        // Who may not see the metrics is told so once, without empty charts.
        place.hidden = error instanceof ApiError && error.status === 403;
      }
    }, METRICS_MS);
    return card("Load", failure, place);
  }

  #statistics() {
    const place = h("div", {}, "Loading…");
    void this.#fill(place, async () => {
      const all = await get("/statistics");
      const numbers = [["sessions", all.sessions], ["messages", all.total_messages], ["runs", all.runs], ["tool calls", all.tool_calls], ["tokens", all.total_tokens]];
      const usage = (/** @type {string} */ label, /** @type {Record<string, any>} */ by) => {
        const names = Object.entries(by).sort((one, other) => other[1].total_tokens - one[1].total_tokens);
        return names.length ? table(`Tokens by ${label}`, [label, "Prompt", "Completion", "Total"], names.map(([name, one]) => [name, one.prompt_tokens.toLocaleString(), one.completion_tokens.toLocaleString(), one.total_tokens.toLocaleString()])) : h("p", { class: "meta" }, `No tokens by ${label} yet.`);
      };
      return [
        h("dl", { class: "numbers" }, numbers.map(([name, count]) => h("div", {}, h("dt", {}, name), h("dd", {}, count.toLocaleString())))),
        h("p", {}, Object.entries(all.by_state).map(([state, count]) => h("a", { class: `state ${state}`, href: `#/?state=${encodeURIComponent(state)}` }, `${count} ${state.replace("_", " ")}`))),
        usage("agent", all.by_agent),
        usage("model", all.by_model),
        h("h3", {}, "Most active"),
        h("ul", { class: "plain" }, all.most_active.map((/** @type {any} */ one) => h("li", {}, h("a", { href: at`#/sessions/${one.session_id}` }, one.title || one.session_id), " ", h("span", { class: "meta" }, counted(one.message_count, "message"))))),
      ];
    });
    return card("Statistics", place);
  }

  #webhooks() {
    const place = h("div", {}, "Loading…");
    const load = () => this.#fill(place, async () => {
      const { webhooks } = await get("/webhooks");
      return webhooks.length ? webhooks.map((/** @type {any} */ one) => this.#webhook(one, load)) : [h("p", { class: "meta" }, "There are none.")];
    });
    void load();
    const add = h("button", { type: "button", on: { click: () => void attempt(async () => {
      const given = await ask("New webhook", [
        h("label", {}, "URL", h("input", { name: "url", type: "url", required: true, autofocus: true })),
        h("fieldset", {}, h("legend", {}, "What it is told of"), EVENTS.map((name) => h("label", { class: "check" }, h("input", { type: "checkbox", name, checked: name.startsWith("run.") }), name))),
      ], { yes: "Create" });
      if (!given) return;
      const made = await post("/webhooks", { url: given.url, events: EVENTS.filter((name) => given[name]) }, { "Idempotency-Key": newKey() });
      await load();
      await ask("The secret, shown once", [h("p", {}, "The receiver verifies requests with it."), h("input", { readonly: true, value: made.secret, "aria-label": "Secret" }), h("div", { class: "bar" }, h("button", { type: "button", on: { click: () => void copy(made.secret) } }, "Copy"))], { yes: "Done", no: "" });
    }) } }, "New webhook");
    return card("Webhooks", place, h("div", { class: "bar" }, add));
  }

  /** @param {any} webhook @param {() => Promise<void>} load */
  #webhook(webhook, load) {
    const path = at`/webhooks/${webhook.id}`;
    const listed = h("div", {});
    const details = h("details", {}, h("summary", {}, "Deliveries"), listed);
    details.addEventListener("toggle", () => details.open && void this.#fill(listed, async () => {
      const { deliveries } = await get(`${path}/deliveries`, { limit: 50 });
      if (!deliveries.length) return [h("p", { class: "meta" }, "None yet.")];
      return [table("Deliveries", ["When", "What", "Attempt", "Answer", "Next"], deliveries.map((/** @type {any} */ one) => [timeOf(one.attempted_at), one.type, one.attempt, h("span", { class: `state ${one.error ? "fail" : "ok"}` }, one.status ? `HTTP ${one.status}` : (one.error ?? "")), one.next_attempt_at ? timeOf(one.next_attempt_at) : ""]))];
    }));
    /** @param {string} label @param {() => Promise<any>} work @param {string} [kind] */
    const button = (label, work, kind = "quiet") => h("button", { type: "button", class: kind, on: { click: () => void attempt(() => work().then(load)) } }, label);
    return h(
      "article",
      { class: "webhook" },
      h("p", {}, h("span", { class: `state ${webhook.enabled ? "ok" : "warn"}` }, webhook.enabled ? "enabled" : `disabled: ${webhook.disabled_reason ?? ""}`), " ", h("code", {}, webhook.url)),
      h("p", { class: "meta" }, webhook.events.join(", "), webhook.failing_since ? h("span", { class: "error" }, " failing since ", timeOf(webhook.failing_since)) : ""),
      h("div", { class: "bar" }, button("Send a test", async () => {
        await post(`${path}/test`, {});
        notice("A test is on its way.");
      }), button(webhook.enabled ? "Disable" : "Enable", () => call("PATCH", path, { body: JSON.stringify({ enabled: !webhook.enabled }), headers: { "Content-Type": "application/merge-patch+json" } })), button("Delete", async () => {
        if (await ask("Delete this webhook?", [h("p", {}, webhook.url)], { yes: "Delete", danger: true })) await call("DELETE", path);
      }, "danger")),
      details,
    );
  }

  #archives() {
    const place = h("div", {}, "Loading…");
    const load = () => this.#fill(place, async () => {
      const page = await get("/archive", { limit: 50 });
      if (!page.archives.length) return [h("p", { class: "meta" }, "No session is archived.")];
      const rows = page.archives.map((/** @type {any} */ one) => {
        const path = at`/archive/${one.session.id}`;
        return [
          h("div", {}, h("a", { href: at`#/sessions/${one.session.id}` }, one.session.title || "Untitled"), h("br"), h("code", { class: "meta" }, one.session.id)),
          timeOf(one.archived_at),
          size(one.bytes),
          h("div", { class: "bar" }, h("button", { type: "button", class: "quiet", on: { click: () => void attempt(() => post(at`/sessions/${one.session.id}/restore`, {}).then(load)) } }, "Restore"), h("button", { type: "button", class: "danger", on: { click: () => void attempt(async () => {
            if (!(await ask("Delete this archive?", [h("p", {}, one.session.title || one.session.id)], { yes: "Delete", danger: true }))) return;
            await call("DELETE", path);
            await load();
          }) } }, "Delete")),
        ];
      });
      return [table("Archived sessions", ["Session", "Archived", "Size", ""], rows), page.has_more ? h("p", { class: "meta" }, "The newest 50 are shown.") : h("span")];
    });
    void load();
    return card("Archives", place);
  }

  #cleanup() {
    const before = h("input", { type: "datetime-local", name: "before" });
    const preview = h("div", { role: "status" });
    /** @param {boolean} isTrial */
    const clean = (isTrial) => post("/cleanup", { ...(before.value ? { before: new Date(before.value).toISOString() } : {}), dry_run: isTrial });
    const form = h("form", { on: { submit: (/** @type {Event} */ event) => {
      event.preventDefault();
      void attempt(async () => {
        const found = await clean(true);
        const count = found.sessions_cleaned + found.archives_cleaned;
        const go = h("button", { type: "button", class: "danger", on: { click: () => void attempt(async () => {
          const done = await clean(false);
          preview.replaceChildren(h("p", {}, `Deleted ${counted(done.sessions_cleaned, "session")} and ${counted(done.archives_cleaned, "archive")}, ${size(done.bytes_freed)}.`));
        }, go) } }, "Delete them");
        preview.replaceChildren(h("p", {}, `Would delete ${counted(found.sessions_cleaned, "session")} and ${counted(found.archives_cleaned, "archive")}, ${size(found.bytes_freed)}.`), h("ul", { class: "preview" }, found.session_ids.slice(0, 100).map((/** @type {string} */ id) => h("li", {}, h("code", {}, id)))), count ? go : "");
      });
    } } }, h("label", {}, "Without activity since (empty: what has expired long ago)", before), h("button", {}, "Preview"));
    before.addEventListener("input", () => preview.replaceChildren());
    return card("Cleanup", form, preview);
  }

  #keys() {
    return card("Keys", h("p", {}, "Keys are made and revoked on the gateway's machine: ", h("code", {}, "bamboo keys create"), ", ", h("code", {}, "bamboo keys revoke"), ". A key that is revoked ends its logins here within two seconds."));
  }
}

customElements.define("bamboo-operating", OperatingView);
