/** Forms for what agents ask: approvals, questions, and forms by their JSON Schema. */

import { at, newKey, post } from "./api.js";
import { attempt, h, timeOf } from "./dom.js";

const TITLES = /** @type {Record<string, string>} */ ({ approval: "The agent asks for an approval", question: "The agent asks", form: "The agent asks for details" });

/**
 * Return the form of one open request.
 * @param {string} sessionId
 * @param {any} request
 * @param {() => void} answered
 */
export function requestForm(sessionId, request, answered) {
  const key = newKey();
  const fields = request.kind === "approval" ? [] : fieldsOf(request);
  const reason = h("input", { name: "reason", maxlength: 2000 });
  const title = h("h2", {}, TITLES[request.kind] ?? TITLES.question);
  /** @param {any} value @param {HTMLButtonElement | null} button */
  const give = (value, button) => attempt(async () => {
    await post(at`/sessions/${sessionId}/inputs`, { answers: { [request.request_id]: value } }, { "Idempotency-Key": `${key}-${hash(JSON.stringify(value))}` });
    answered();
  }, button);
  const deny = h("button", { type: "button", class: "danger", on: { click: () => void give({ approved: false, ...(reason.value ? { reason: reason.value } : {}) }, deny) } }, "Deny");
  const yes = h("button", { class: "primary" }, request.kind === "approval" ? "Approve" : "Answer");
  const form = h(
    "form",
    { class: "card request", on: { submit: (/** @type {Event} */ event) => {
      event.preventDefault();
      void attempt(async () => {
        const value = request.kind === "approval" ? { approved: true } : read(fields);
        await give(value, yes);
      });
    } } },
    title,
    h("p", { class: "prompt" }, request.prompt),
    request.expires_at ? h("p", { class: "meta" }, "Until ", timeOf(request.expires_at)) : "",
    fields.map((field) => field.label),
    request.kind === "approval" ? h("label", {}, "Reason, if you deny", reason) : "",
    h("div", { class: "bar" }, yes, request.kind === "approval" ? deny : ""),
  );
  return form;
}

/** Return what is asked, for those who may only read. @param {any} request */
export function requestNote(request) {
  return h(
    "div",
    { class: "card request" },
    h("h2", {}, TITLES[request.kind] ?? TITLES.question),
    h("p", { class: "prompt" }, request.prompt),
    h("p", { class: "meta" }, "It waits for the answer of somebody who may write here."),
  );
}

/** @typedef {{ name: string, label: HTMLElement, read: () => any }} Field */

/** @param {any} request @returns {Field[]} */
function fieldsOf(request) {
  const schema = request.schema;
  if (schema?.type === "object" && schema.properties) {
    const required = new Set(schema.required ?? []);
    return Object.entries(schema.properties).map(([name, one]) => field(name, /** @type {any} */ (one), required.has(name)));
  }
  return [schema || request.kind === "question" ? field("", schema ?? { type: "string" }, true) : json("")];
}

/** @param {string} name @param {any} schema @param {boolean} required @returns {Field} */
function field(name, schema, required) {
  const title = schema.title ?? (name || "Answer");
  const about = schema.description ? h("small", {}, schema.description) : "";
  const choices = schema.enum ?? schema.oneOf?.map((/** @type {any} */ one) => one.const);
  if (Array.isArray(choices) && choices.every((one) => one !== undefined)) {
    const select = h("select", { required }, required ? "" : h("option", { value: "" }, "–"), choices.map((one, index) => h("option", { value: index }, String(one))));
    return { name, label: h("label", {}, title, about, select), read: () => (select.value === "" ? undefined : choices[Number(select.value)]) };
  }
  if (schema.type === "boolean") {
    const box = h("input", { type: "checkbox", checked: schema.default === true });
    return { name, label: h("label", { class: "check" }, box, title, about), read: () => box.checked };
  }
  if (schema.type === "number" || schema.type === "integer") {
    const number = h("input", { type: "number", step: schema.type === "integer" ? 1 : "any", min: schema.minimum, max: schema.maximum, required, value: schema.default });
    return { name, label: h("label", {}, title, about, number), read: () => (number.value === "" ? undefined : Number(number.value)) };
  }
  if (schema.type === "string" || schema.type === undefined) {
    const text = h((schema.maxLength ?? 0) > 200 ? "textarea" : "input", { required, maxlength: schema.maxLength });
    text.value = schema.default ?? "";
    return { name, label: h("label", {}, title, about, text), read: () => (text.value === "" && !required ? undefined : text.value) };
  }
  return json(name, title);
}

/** @param {string} name @param {string} [title] @returns {Field} */
function json(name, title = name || "Answer") {
  const text = h("textarea", { rows: 4, required: true, spellcheck: "false" });
  return { name, label: h("label", {}, `${title} (JSON)`, text), read: () => JSON.parse(text.value) };
}

/** @param {Field[]} fields */
function read(fields) {
  if (fields.length === 1 && fields[0].name === "") return fields[0].read();
  // Without a prototype: a property may be called `__proto__`.
  const value = Object.create(null);
  for (const one of fields) {
    const given = one.read();
    if (given !== undefined) value[one.name] = given;
  }
  return value;
}

/** A short name of a text: another answer is another request. @param {string} text */
function hash(text) {
  let sum = 0;
  for (const letter of text) sum = (Math.imul(sum, 31) + (letter.codePointAt(0) ?? 0)) | 0;
  return (sum >>> 0).toString(36);
}
