/** What can be done with a session as a whole, each with the question that it needs. */

import { address, at, call, get, newKey, post, save } from "./api.js";
import { ask, copy, counted, h, notice, size, timeOf } from "./dom.js";

/** @typedef {import("./api.js").Session} Session */

/** @param {Session} session @returns {Promise<Session | null>} */
export async function rename(session) {
  const given = await ask("Rename this session", [
    h("label", {}, "Title", h("input", { name: "title", value: session.title ?? "", maxlength: 500, autofocus: true })),
  ], { yes: "Rename" });
  if (!given) return null;
  const headers = { "Content-Type": "application/merge-patch+json" };
  return call("PATCH", at`/sessions/${session.id}`, { body: JSON.stringify({ title: given.title || null }), headers });
}

/** Show the shares of a session, and make or end some. @param {Session} session */
export async function share(session) {
  const { shares } = await get(at`/sessions/${session.id}/shares`);
  const listed = shares.map((/** @type {any} */ one) => {
    const end = h("button", { type: "button", class: "danger", on: { click: async () => {
      try {
        await call("DELETE", at`/sessions/${session.id}/shares/${one.id}`);
        end.closest("li")?.remove();
      } catch (error) {
        notice(String(error), "error");
      }
    } } }, "End");
    return h("li", {}, one.user_id ? `User ${one.user_id}` : "Link", ` (${one.scope}), `, one.expires_at ? h("span", {}, "until ", timeOf(one.expires_at)) : "until it is ended", " ", end);
  });
  const given = await ask("Share this session", [
    h("p", {}, "Who has the link may read this session, now and as it grows; one user finds it at its address after a login."),
    listed.length ? h("ul", { class: "plain" }, listed) : "",
    h("label", {}, "Who", h("select", { name: "who" }, h("option", { value: "" }, "everybody who has the link"), h("option", { value: "user" }, "one user"))),
    h("label", {}, "User (for one user)", h("input", { name: "user_id", maxlength: 128 })),
    h("label", {}, "May", h("select", { name: "scope" }, h("option", { value: "read" }, "read"), h("option", { value: "answer" }, "read, and answer what the agent asks"))),
    h("label", {}, "Ends after", h("select", { name: "expires_in" }, h("option", { value: "3600" }, "an hour"), h("option", { value: "86400", selected: true }, "a day"), h("option", { value: "604800" }, "a week"), h("option", { value: "" }, "when it is ended"))),
  ], { yes: "Share" });
  if (!given) return;
  const made = await post(at`/sessions/${session.id}/shares`, {
    ...(given.who === "user" ? { user_id: given.user_id } : { link: true }),
    scope: given.scope,
    ...(given.expires_in ? { expires_in: Number(given.expires_in) } : {}),
  }, { "Idempotency-Key": newKey() });
  if (!made.token) {
    notice(`Shared with ${made.user_id}.`);
    return;
  }
  // Behind the #, so that it is in no log and no Referer.
  const link = `${location.href.split("#")[0]}#/shared/${encodeURIComponent(session.id)}/${encodeURIComponent(made.token)}${given.scope === "answer" ? "/answer" : ""}`;
  const field = h("input", { readonly: true, value: link, "aria-label": "Link" });
  await ask("The link, shown once", [h("p", {}, "Keep it now: the gateway does not keep it."), field, h("div", { class: "bar" }, h("button", { type: "button", on: { click: () => void copy(link) } }, "Copy"))], { yes: "Done", no: "" });
}

/** @param {Session} session */
export async function exportOne(session) {
  const given = await ask("Export this session", exportFields(), { yes: "Export" });
  if (!given) return;
  const query = { format: given.format, include_metadata: Boolean(given.metadata), include_tool_calls: Boolean(given.tools) };
  const blob = await call("GET", at`/sessions/${session.id}/export`, { query, as: "blob" });
  save(blob, `${session.id}.${({ markdown: "md" })[given.format] ?? given.format}`);
}

/** @param {string[]} ids */
export async function exportMany(ids) {
  const given = await ask(`Export ${counted(ids.length, "session")}`, exportFields(), { yes: "Export" });
  if (!given) return;
  const json = { session_ids: ids, format: given.format, include_metadata: Boolean(given.metadata), include_tool_calls: Boolean(given.tools) };
  save(await call("POST", "/export", { json, as: "blob" }), "sessions.zip");
}

function exportFields() {
  return [
    h("label", {}, "Format", h("select", { name: "format" }, h("option", { value: "markdown" }, "Markdown, to read"), h("option", { value: "json" }, "JSON, to import again"), h("option", { value: "yaml" }, "YAML"))),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "metadata", checked: true }), "with metadata"),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "tools", checked: true }), "with tool calls"),
  ];
}

/** @param {Session} session @param {string} [messageId] */
export async function fork(session, messageId) {
  const given = await ask("Fork this session", [
    h("p", {}, messageId ? "The new session has the messages up to this one." : "The new session has all messages."),
    h("label", {}, "Title of the fork", h("input", { name: "name", value: session.title ? `${session.title} (fork)` : "", maxlength: 500, autofocus: true })),
  ], { yes: "Fork" });
  if (!given) return;
  const made = await post(at`/sessions/${session.id}/fork`, { ...(messageId ? { from_message_id: messageId } : {}), ...(given.name ? { new_name: given.name } : {}) }, { "Idempotency-Key": newKey() });
  if (made.detail) notice(made.detail);
  location.hash = at`#/sessions/${made.id}`;
}

/** @param {Session} session */
export async function merge(session) {
  const given = await ask("Merge another session into this one", [
    h("label", {}, "Id of the session to merge", h("input", { name: "source", required: true, maxlength: 128, autofocus: true })),
    h("label", {}, "How", h("select", { name: "strategy" }, h("option", { value: "append" }, "append its messages"), h("option", { value: "interleave" }, "interleave by time"), h("option", { value: "replace" }, "replace the messages here"))),
  ], { yes: "Merge" });
  if (!given) return;
  await post(at`/sessions/${session.id}/merge`, { source_id: given.source, strategy: given.strategy }, { "Idempotency-Key": newKey() });
  notice("Merged.");
}

/** @param {Session} session @param {"close" | "reopen" | "archive" | "restore"} verb */
export async function move(session, verb) {
  await post(at`/sessions/${session.id}/${verb}`, {});
  notice({ close: "Closed.", reopen: "Reopened.", archive: "Archived.", restore: "Restored." }[verb]);
}

/** Ask, and delete sessions; each by itself. @param {Session[]} sessions @returns {Promise<boolean>} */
export async function remove(sessions) {
  const messages = sessions.reduce((sum, session) => sum + (session.message_count ?? 0), 0);
  const active = sessions.filter((session) => session.active_run_id).length;
  const given = await ask(`Delete ${counted(sessions.length, "session")}?`, [
    h("p", {}, `This deletes ${counted(messages, "message")} for good, with all events.`, active ? ` ${counted(active, "session has", "sessions have")} a run that is active.` : ""),
    h("ul", { class: "preview" }, sessions.slice(0, 100).map((session) => h("li", {}, h("strong", {}, session.title || "Untitled"), " ", h("code", {}, session.id), ` ${counted(session.message_count ?? 0, "message")}`))),
    sessions.length > 100 ? h("p", {}, `… and ${sessions.length - 100} more`) : "",
  ], { yes: "Delete", danger: true });
  if (!given) return false;
  /** @type {string[]} */
  const failed = [];
  for (const session of sessions) {
    try {
      await call("DELETE", at`/sessions/${session.id}`);
    } catch (error) {
      failed.push(`${session.id}: ${error instanceof Error ? error.message : error}`);
    }
  }
  if (failed.length) notice(`Not deleted: ${failed.join("; ")}`, "error");
  else notice(`${counted(sessions.length, "session")} deleted.`);
  return true;
}

/** @param {any} answer Of `POST /archive`. */
export function toldArchived(answer) {
  const bytes = answer.archived.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + (one.bytes ?? 0), 0);
  notice(`${counted(answer.archived.length, "session")} archived (${size(bytes)}).`);
  for (const one of answer.failed) notice(`${one.session_id}: ${one.detail}`, "error");
}

/** Make a session, and go there. */
export async function create() {
  const given = await ask("New session", [
    h("label", {}, "Title", h("input", { name: "title", maxlength: 500, autofocus: true })),
    h("label", {}, "Id (made when empty)", h("input", { name: "id", maxlength: 128, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,127}" })),
    h("label", {}, "User (only for operators)", h("input", { name: "user_id", maxlength: 128 })),
  ], { yes: "Create" });
  if (!given) return;
  /** @type {Record<string, string>} */
  const json = {};
  for (const name of ["title", "id", "user_id"]) if (given[name]) json[name] = given[name];
  const made = await post("/sessions", json, { "Idempotency-Key": newKey() });
  location.hash = at`#/sessions/${made.id}`;
}

/** Where a session's bug report is. @param {string} id */
export function reportAddress(id) {
  return address(at`/sessions/${id}/diagnostics`);
}
