/**
 * Markdown as elements. The text is foreign: it never becomes markup, links lead to http, https
 * and mail addresses only, and pictures are shown as links, so that reading asks no other server.
 */

import { h } from "./dom.js";

/** Quotes and lists deeper than this are shown as text. */
const DEPTH_MAX = 6;
/** A longer paragraph is shown as it is: what marks belong together is not searched for ever. */
const INLINE_CHARS_MAX = 8_000;

/** @type {WeakMap<Element, string>} */
const sources = new WeakMap();

/**
 * Show a text in a container. Blocks that have not changed stay: while an answer streams, only its
 * last block is made again.
 * @param {Element} container
 * @param {string} text
 */
export function show(container, text) {
  const blocks = split(text);
  blocks.forEach((source, index) => {
    const shown = container.children[index];
    if (shown && sources.get(shown) === source) return;
    const made = block(source, 0);
    sources.set(made, source);
    if (shown) shown.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > blocks.length) container.lastElementChild?.remove();
}

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const TABLE = /^ *\|?( *:?-+:? *\|)+( *:?-+:? *)?$/;

/** Cut a text into blocks. @param {string} text @returns {string[]} */
function split(text) {
  /** @type {string[]} */
  const blocks = [];
  /** @type {string[]} */
  let lines = [];
  let fence = "";
  let kind = "";
  const end = () => {
    if (lines.some((line) => line.trim())) blocks.push(lines.join("\n"));
    lines = [];
    kind = "";
  };
  for (const line of text.replace(/\r\n?/g, "\n").split("\n")) {
    if (fence) {
      lines.push(line);
      const closing = FENCE.exec(line);
      if (closing && closing[1].startsWith(fence) && !closing[2].trim()) {
        fence = "";
        end();
      }
      continue;
    }
    const opening = FENCE.exec(line);
    const isInside = kind === "list" && /^ {2,}/.test(line);
    if (opening && !isInside) {
      end();
      fence = opening[1];
      kind = "code";
      lines.push(line);
      continue;
    }
    if (!line.trim()) {
      if (kind === "list") lines.push(line);
      else end();
      continue;
    }
    const isItem = ITEM.test(line) && !RULE.test(line);
    const isQuote = /^ {0,3}>/.test(line);
    if (kind === "list" && !isItem && !/^ {2,}/.test(line) && !lines[lines.length - 1]?.trim()) end();
    if (kind !== "list" && (HEADING.test(line) || RULE.test(line))) {
      end();
      blocks.push(line);
      continue;
    }
    if (kind === "quote" && !isQuote) end();
    if (!kind || (kind === "text" && (isItem || isQuote))) {
      if (kind) end();
      kind = isItem ? "list" : isQuote ? "quote" : "text";
    }
    lines.push(line);
  }
  end();
  return blocks;
}

/** @param {string} source @param {number} depth @returns {HTMLElement} */
function block(source, depth) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(source);
  if (heading && lines.length === 1) {
    // The page has its own h1 and h2.
    return h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(withoutEnd(heading[2])));
  }
  if (lines.length === 1 && RULE.test(source)) return h("hr");
  if (depth < DEPTH_MAX) {
    if (/^ {0,3}>/.test(lines[0])) {
      const inner = lines.map((line) => line.replace(/^ {0,3}> ?/, "")).join("\n");
      return h("blockquote", {}, split(inner).map((one) => block(one, depth + 1)));
    }
    if (ITEM.test(lines[0])) return list(lines, depth);
    if (lines.length > 1 && lines[0].includes("|") && TABLE.test(lines[1])) return table(lines);
  }
  return h("p", {}, inline(source));
}

/** Return a heading without the marks that may close it. @param {string} text */
function withoutEnd(text) {
  const words = text.trimEnd();
  let end = words.length;
  while (end > 0 && words[end - 1] === "#") end -= 1;
  return end === 0 || words[end - 1] === " " ? words.slice(0, end).trimEnd() : words;
}

/** @param {string[]} lines @param {RegExpExecArray} fence */
function code(lines, fence) {
  const last = lines[lines.length - 1];
  const closed = lines.length > 1 && FENCE.exec(last)?.[1].startsWith(fence[1]);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const language = fence[2].trim().split(/\s/)[0];
  const pre = h("pre", { tabindex: 0, role: "group", "aria-label": language ? `Code: ${language}` : "Code" }, h("code", {}, text));
  return h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, language), h("button", { type: "button", class: "quiet", "data-copy": true }, "Copy")),
    pre,
  );
}

/** @param {string[]} lines @param {number} depth */
function list(lines, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[0]));
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  /** @type {string[][]} */
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent + 1) items.push([line.slice(item[0].length)]);
    else items[items.length - 1].push(line.replace(/^( {1,4}|\t)/, ""));
  }
  return h(
    ordered ? "ol" : "ul",
    ordered && parseInt(first[2], 10) !== 1 ? { start: parseInt(first[2], 10) } : {},
    items.map((item) => {
      const blocks = split(item.join("\n"));
      // An item of one paragraph is a line without space around it.
      return h("li", {}, blocks.map((one) => {
        const made = block(one, depth + 1);
        return made.tagName === "P" && blocks[0] === one ? h("span", {}, [...made.childNodes]) : made;
      }));
    }),
  );
}

/** @param {string[]} lines */
function table(lines) {
  /** @param {string} line */
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, cells(lines[0]).map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, lines.slice(2).map((line) => h("tr", {}, cells(line).map((cell) => h("td", {}, cell))))),
    ),
  );
}

const INLINE = /(?<!`)(`+)(?!`)([^]*?[^`])\1(?!`)|(\*\*|__)(?=\S)([^]*?\S)\3|(~~)(?=\S)([^]*?\S)\5|(\*|_)(?=[^\s*_])([^*_\n]*[^\s*_])\7|!?\[([^\]\n]*)\]\(([^()\s]*)(?: "[^"\n]*")?\)|(https?:\/\/[^\s<>()"'`]+[^\s<>()"'`.,;:!?])| {2,}\n|\\([!-/:-@[-`{-~])/g;

/** @param {string} text @param {number} [depth] @returns {(Node | string)[]} */
function inline(text, depth = 0) {
  if (text.length > INLINE_CHARS_MAX || depth > DEPTH_MAX) return [text];
  /** @type {(Node | string)[]} */
  const found = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , codeText, , strong, , gone, mark, em, label, target, bare, escaped] = match;
    // snake_case_names are no emphasis.
    if (mark === "_" && /\w/.test(text[match.index - 1] ?? "")) continue;
    if (match.index > from) found.push(text.slice(from, match.index));
    from = match.index + whole.length;
    if (codeText !== undefined) found.push(h("code", {}, codeText.replace(/^ (.*) $/s, "$1")));
    else if (strong !== undefined) found.push(h("strong", {}, inline(strong, depth + 1)));
    else if (gone !== undefined) found.push(h("del", {}, inline(gone, depth + 1)));
    else if (em !== undefined) found.push(h("em", {}, inline(em, depth + 1)));
    else if (target !== undefined) found.push(link(target, label || target, whole));
    else if (bare !== undefined) found.push(link(bare, bare, whole));
    else if (escaped !== undefined) found.push(escaped);
    else found.push(h("br"));
  }
  if (from < text.length) found.push(text.slice(from));
  return found;
}

/** @param {string} target @param {string} label @param {string} whole @returns {Node | string} */
export function link(target, label, whole = label) {
  const url = URL.canParse(target) ? new URL(target) : null;
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return whole;
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}
