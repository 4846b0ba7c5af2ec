/** What a person writes to the agent: a text, files, and which agent answers. */

import { at, call, get, newKey, post } from "./api.js";
import { attempt, h, notice, size } from "./dom.js";

/** What the gateway takes as a picture; others, such as drawings in SVG, are files. */
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"];

let made = 0;

/**
 * Return the form that chats.
 * @param {string} sessionId
 * @param {{ sent: (answer: any) => void, stop: () => void }} doing
 */
export function composer(sessionId, doing) {
  made += 1;
  /** @type {any[]} */
  let files = [];
  let editing = "";
  // A repeat after a lost answer has the same key, so the gateway chats once.
  let key = newKey();
  const text = h("textarea", { id: `say-${made}`, rows: 2, placeholder: "Write a message", maxlength: 1_000_000 });
  const agent = h("select", { "aria-label": "Agent" });
  const chosen = h("input", { type: "file", multiple: true, hidden: true });
  const attached = h("ul", { class: "attached" });
  const send = h("button", { class: "primary" }, "Send");
  const stop = h("button", { type: "button", class: "danger", hidden: true, on: { click: () => doing.stop() } }, "Stop");
  const mode = h("p", { class: "editing", hidden: true }, h("span", {}, "You edit an earlier message; the old one stays as a version. "), h("button", { type: "button", class: "quiet", on: { click: () => edit("", "") } }, "Cancel"));

  void get("/agents").then(
    ({ agents }) => {
      for (const one of agents) agent.append(h("option", { value: one.name, selected: one.is_default }, one.name));
      agent.hidden = agents.length < 2;
    },
    () => (agent.hidden = true),
  );

  /** @param {string} id @param {string} before */
  function edit(id, before) {
    editing = id;
    mode.hidden = !id;
    text.value = before;
    key = newKey();
    text.focus();
  }

  function showFiles() {
    attached.replaceChildren(...files.map((one) => h("li", {}, `${one.name ?? one.file_id} (${size(one.bytes ?? 0)})`, h("button", { type: "button", class: "quiet", "aria-label": `Remove ${one.name}`, on: { click: () => {
      files = files.filter((other) => other !== one);
      showFiles();
    } } }, "×"))));
  }

  chosen.addEventListener("change", () => void attempt(async () => {
    for (const file of chosen.files ?? []) {
      const type = file.type || "application/octet-stream";
      const stored = await call("POST", "/files", { query: { name: file.name }, body: file, headers: { "Content-Type": type, "Idempotency-Key": newKey() } });
      files.push({ type: PICTURES.includes(stored.media_type) ? "image" : "file", file_id: stored.file_id, name: stored.name, bytes: stored.bytes });
      showFiles();
    }
    chosen.value = "";
  }));

  async function submit() {
    const said = text.value;
    if (!said.trim() && !files.length) return;
    const content = files.length ? [...(said.trim() ? [{ type: "text", text: said }] : []), ...files.map(({ type, file_id }) => ({ type, file_id }))] : said;
    const answer = await post("/chat", {
      session_id: sessionId,
      message: { role: "user", content },
      ...(agent.value && !agent.hidden ? { agent: agent.value } : {}),
      ...(editing ? { edit_message_id: editing } : {}),
    }, { "Idempotency-Key": key });
    key = newKey();
    files = [];
    showFiles();
    // What was written while the request was on its way stays.
    if (text.value === said) text.value = "";
    editing = "";
    mode.hidden = true;
    if (answer.status === "queued") notice("The message waits for the run before it.");
    doing.sent(answer);
  }

  const form = h(
    "form",
    { class: "composer", on: { submit: (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!send.disabled) void attempt(submit, send);
    } } },
    mode,
    attached,
    h("label", { for: text.id, class: "hidden" }, "Message"),
    text,
    h("div", { class: "bar" }, h("button", { type: "button", class: "quiet", on: { click: () => chosen.click() } }, "Attach"), chosen, agent, h("span", { class: "grow hint" }, "Enter sends, Shift+Enter makes a line"), stop, send),
  );
  text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  text.addEventListener("input", () => (key = newKey()));
  return {
    form,
    edit,
    /** @param {boolean} isActive */
    showActive(isActive) {
      stop.hidden = !isActive;
    },
  };
}

/** Cancel the active run and all that wait. @param {string} sessionId */
export function stopRuns(sessionId) {
  return post(at`/sessions/${sessionId}/cancel`, {});
}
