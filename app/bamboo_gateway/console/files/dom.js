/**
 * What every view uses to build elements. Nothing here takes markup as a string: text becomes text
 * nodes, so what users and agents wrote cannot become elements.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Make an element.
 * @param {string} name
 * @param {Record<string, any>} [props] Attributes; `on` holds listeners. False and null are left out.
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  set(element, props);
  add(element, children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an SVG element.
 * @param {string} name
 * @param {Record<string, any>} [props]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
export function svg(name, props = {}, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, name));
  set(element, props);
  add(element, children);
  return element;
}

/** @param {Element} element @param {Record<string, any>} props */
function set(element, props) {
  for (const [key, value] of Object.entries(props)) {
    if (key === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(key, value === true ? "" : String(value));
    }
  }
}

/** @param {Element} element @param {(Child | Child[])[]} children */
function add(element, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
}

/**
 * Return a copy of a template, and its parts by `data-part`.
 * @param {string} id
 * @returns {{ root: DocumentFragment, part: Record<string, any> }}
 */
export function fromTemplate(id) {
  const template = /** @type {HTMLTemplateElement} */ (document.getElementById(id));
  const root = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
  /** @type {Record<string, any>} */
  const part = {};
  for (const element of root.querySelectorAll("[data-part]")) {
    part[/** @type {HTMLElement} */ (element).dataset.part ?? ""] = element;
  }
  return { root, part };
}

/** Say something to everybody, and to screen readers. @param {string} text @param {"" | "error"} [kind] */
export function notice(text, kind = "") {
  const place = document.getElementById("notices");
  const shown = h("p", { class: kind }, text);
  place?.append(shown);
  setTimeout(() => shown.remove(), kind === "error" ? 12_000 : 5_000);
}

/** @param {unknown} error @returns {string} */
export function words(error) {
  return error instanceof Error ? error.message : String(error);
}

/**
 * Run something that may fail, and say so when it does.
 * @template T
 * @param {() => Promise<T>} work
 * @param {HTMLButtonElement | null} [button] It is disabled meanwhile.
 * @returns {Promise<T | undefined>}
 */
export async function attempt(work, button = null) {
  if (button) button.disabled = true;
  try {
    return await work();
  } catch (error) {
    notice(words(error), "error");
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
}

/**
 * Ask something in a dialog; null when it was left.
 * @param {string} title
 * @param {(Child | Child[])[]} content Fields have names.
 * @param {{ yes?: string, danger?: boolean, no?: string }} [how]
 * @returns {Promise<Record<string, string> | null>}
 */
export function ask(title, content, { yes = "OK", danger = false, no = "Cancel" } = {}) {
  return new Promise((resolve) => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    /** @type {HTMLFormElement} */
    const form = h(
      "form",
      {},
      h("h2", { id: "dialog-title" }, title),
      ...content,
      h(
        "div",
        { class: "bar end" },
        no && h("button", { type: "button", on: { click: () => close(null) } }, no),
        h("button", { class: danger ? "danger" : "primary" }, yes),
      ),
    );
    /** @type {HTMLDialogElement} */
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let done = false;
    /** @param {Record<string, string> | null} answer */
    const close = (answer) => {
      if (done) return;
      done = true;
      dialog.close();
      dialog.remove();
      before?.focus();
      resolve(answer);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      /** @type {Record<string, string>} */
      const values = {};
      for (const [name, value] of new FormData(form)) values[name] = String(value);
      close(values);
    });
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close(null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** @param {string | null | undefined} time @returns {string} */
export function when(time) {
  if (!time) return "";
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return today
    ? date.toLocaleTimeString()
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** @param {string | null | undefined} time */
export function timeOf(time) {
  return time ? h("time", { datetime: time, title: time }, when(time)) : h("span", {}, "–");
}

/** @param {number} count @param {string} one @param {string} [many] */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString()} ${count === 1 ? one : many}`;
}

/** @param {number} bytes */
export function size(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** @param {string} state */
export function stateOf(state) {
  return h("span", { class: `state ${/^\w+$/.test(state) ? state : ""}` }, state.replace("_", " "));
}

/** Copy a text; a page that is not served securely has no clipboard. @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notice("Copied.");
  } catch {
    await ask("Copy this", [h("textarea", { readonly: true, rows: 5, "aria-label": "Text" }, text)], { no: "", yes: "Done" });
  }
}
