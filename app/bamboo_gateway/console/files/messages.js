/** How a message looks. */

import { address, at } from "./api.js";
import { copy, h, size, timeOf } from "./dom.js";
import { link, show } from "./markdown.js";

/** @typedef {import("./api.js").Message} Message */
/** @typedef {import("./conversation.js").Outcome} Outcome */
/**
 * @typedef {object} Acting What a caller may do with a message; none of it for a reader.
 * @property {(message: Message) => void} regenerate
 * @property {(message: Message) => void} edit
 * @property {(message: Message) => void} fork
 * @property {(message: Message, sibling: string) => void} select
 */

const NAMES = /** @type {Record<string, string>} */ ({ user: "You", assistant: "Agent", system: "System", tool: "Tool" });
/** More of an argument or a result is shown on demand. */
const SHOWN_CHARS = 4_000;

/**
 * Fill the element of a message.
 * @param {HTMLElement} item
 * @param {Message} message
 * @param {Map<string, Outcome>} outcomes
 * @param {Acting | null} acting
 */
export function render(item, message, outcomes, acting) {
  const isStreaming = message.status === "streaming";
  item.className = `message ${NAMES[message.role] ? message.role : "other"}${isStreaming ? " streaming" : ""}`;
  item.setAttribute("aria-busy", String(isStreaming));
  const [head, body, foot] = skeleton(item);
  head.replaceChildren(
    h("strong", {}, NAMES[message.role] ?? message.role),
    message.model ? h("span", { class: "model" }, message.model) : "",
    message.status === "incomplete" ? h("span", { class: "state failed" }, "incomplete") : "",
    message.created_at ? timeOf(message.created_at) : "",
  );
  body.replaceChildren(...parts(body, message), ...calls(message, outcomes, body));
  foot.replaceChildren(...(isStreaming ? [] : actions(message, acting)));
}

/** @param {HTMLElement} item @returns {HTMLElement[]} */
function skeleton(item) {
  if (!item.firstElementChild) {
    item.append(h("div", { class: "head" }), h("div", { class: "body" }), h("div", { class: "foot" }));
    item.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("[data-copy]") : null;
      if (button) void copy(button.closest(".code")?.querySelector("pre")?.textContent ?? "");
    });
  }
  return /** @type {HTMLElement[]} */ ([...item.children]);
}

/**
 * Return the elements of a message's parts. Those that are shown are used again, so that an opened
 * one stays open and a streaming text changes only at its end.
 * @param {HTMLElement} body @param {Message} message
 */
function parts(body, message) {
  const content = typeof message.content === "string" ? [{ type: "text", text: message.content }] : (message.content ?? []);
  const shown = [...body.children];
  return content.map((/** @type {any} */ part, /** @type {number} */ index) => {
    const before = /** @type {HTMLElement | undefined} */ (shown[index]);
    if (part.type === "text") {
      const text = before?.dataset.part === "text" ? before : h("div", { class: "prose", "data-part": "text" });
      show(text, part.text);
      return text;
    }
    if (part.type === "thinking") {
      const folded = before?.dataset.part === "thinking" ? before : h("details", { class: "thinking", "data-part": "thinking" }, h("summary", {}, "Thinking"), h("div", { class: "prose" }));
      show(folded.children[1], part.text);
      return folded;
    }
    return file(part);
  });
}

/** @param {any} part */
function file(part) {
  const name = String(part.name ?? part.type ?? "file");
  const inline = typeof part.data === "string" && /^image\/(png|jpeg|gif|webp|avif)$/.test(part.media_type ?? "");
  const own = part.file_id ? address(at`/files/${part.file_id}`) : inline ? `data:${part.media_type};base64,${part.data.replace(/^data:[^,]*,/, "")}` : "";
  if (part.type === "image" && own) return h("figure", {}, h("img", { src: own, alt: name, loading: "lazy" }), h("figcaption", {}, name));
  const label = part.bytes ? `${name} (${size(part.bytes)})` : name;
  if (part.file_id) return h("p", { class: "file" }, h("a", { href: address(at`/files/${part.file_id}`, { download: true }), download: name }, label));
  // A picture elsewhere is a link: the console asks no other server.
  return h("p", { class: "file" }, part.url ? link(String(part.url), label) : label);
}

/** @param {Message} message @param {Map<string, Outcome>} outcomes @param {HTMLElement} body */
function calls(message, outcomes, body) {
  const open = new Set([...body.querySelectorAll("details.tool[open]")].map((one) => /** @type {HTMLElement} */ (one).dataset.call));
  return (message.tool_calls ?? []).map((call) => {
    const outcome = outcomes.get(call.id);
    const state = !outcome ? "called" : outcome.partial ? "working" : outcome.success ? "done" : "failed";
    return h(
      "details",
      { class: "tool", "data-call": call.id, open: open.has(call.id) },
      h("summary", {}, h("code", {}, call.name), h("span", { class: `state ${state}` }, state)),
      h("h3", {}, "Arguments"),
      value(call.arguments),
      outcome && h("h3", {}, outcome.success ? "Result" : "Error"),
      outcome && value(outcome.content),
    );
  });
}

/** Show any JSON value. @param {any} content */
export function value(content) {
  const text = pretty(content);
  const pre = h("pre", { tabindex: 0, role: "group", "aria-label": "Value" }, text.slice(0, SHOWN_CHARS));
  if (text.length <= SHOWN_CHARS) return pre;
  const more = h("button", { type: "button", class: "quiet", on: { click: () => {
    pre.textContent = text;
    more.remove();
  } } }, `Show all ${text.length.toLocaleString()} characters`);
  return h("div", {}, pre, more);
}

/** Return a value as text; tools often answer with JSON that is a text already. @param {any} content @returns {string} */
function pretty(content) {
  if (typeof content !== "string") return JSON.stringify(content, null, 2) ?? "";
  if (!/^\s*[[{]/.test(content)) return content;
  try {
    return JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    return content;
  }
}

/** @param {Message} message @param {Acting | null} acting @returns {Node[]} */
function actions(message, acting) {
  /** @param {string} label @param {() => void} act */
  const button = (label, act) => h("button", { type: "button", class: "quiet", on: { click: act } }, label);
  /** @type {Node[]} */
  const shown = [];
  const siblings = message.siblings ?? [];
  const here = siblings.indexOf(message.id);
  if (siblings.length > 1 && here >= 0 && acting) {
    const to = (/** @type {number} */ step, /** @type {string} */ sign, /** @type {string} */ label) =>
      h("button", { type: "button", class: "quiet", "aria-label": label, disabled: !siblings[here + step], on: { click: () => acting.select(message, siblings[here + step]) } }, sign);
    shown.push(h("span", { class: "siblings", role: "group", "aria-label": "Versions" }, to(-1, "‹", "Earlier version"), `${here + 1}/${siblings.length}`, to(1, "›", "Later version")));
  }
  const text = textOf(message);
  if (text) shown.push(button("Copy", () => void copy(text)));
  if (acting && message.role === "assistant") shown.push(button("Regenerate", () => acting.regenerate(message)));
  if (acting && message.role === "user") shown.push(button("Edit", () => acting.edit(message)));
  if (acting) shown.push(button("Fork", () => acting.fork(message)));
  return shown;
}

/** Return what a message says, without thinking. @param {Message} message @returns {string} */
export function textOf(message) {
  if (typeof message.content === "string") return message.content;
  return (message.content ?? []).filter((/** @type {any} */ part) => part.type === "text").map((/** @type {any} */ part) => part.text).join("");
}
