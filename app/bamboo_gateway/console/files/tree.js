/** The branch tree as a picture: forks, merges, and the branches inside the session. */

import { at, get, isShared, post } from "./api.js";
import { attempt, counted, h, svg, words } from "./dom.js";

/** @typedef {import("./session.js").SessionView} SessionView */

const ROW = 44;
const STEP = 26;
const LEFT = 16;
const TITLE_CHARS = 38;
/** More nodes are no picture any more. */
const NODES_MAX = 400;

/** @typedef {{ id: string, depth: number, row: number, title: string, about: string, kind: string, parent: Placed | null, merged: string[], act: (() => void) | null, href: string, current: boolean }} Placed */

/** @param {SessionView} view */
export function treePanel(view) {
  const element = h("div", {}, h("h2", {}, "Branch tree"), h("p", { class: "empty" }, "Loading…"));
  let timer = 0;
  async function load() {
    try {
      const [tree, inside] = await Promise.all([
        get(at`/sessions/${view.sessionId}/tree`),
        isShared() ? { branches: [] } : get(at`/sessions/${view.sessionId}/branches`),
      ]);
      const placed = place(view, tree, inside.branches);
      element.replaceChildren(
        h("h2", {}, "Branch tree"),
        h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Picture of the tree" }, draw(placed)),
        h("p", { class: "meta" }, "Round: sessions. Square: branches inside this session. Dashed: merges."),
        tree.truncated || placed.length >= NODES_MAX ? h("p", { class: "meta" }, "The tree is larger; the rest is not shown.") : "",
      );
    } catch (error) {
      element.replaceChildren(h("h2", {}, "Branch tree"), h("p", { class: "error" }, words(error)));
    }
  }
  void load();
  return {
    element,
    /** @param {import("./api.js").LogEvent} event */
    event(event) {
      if (!/^(branch_|session_|message|state_)/.test(event.type)) return;
      clearTimeout(timer);
      timer = window.setTimeout(() => void load(), 500);
    },
    close: () => clearTimeout(timer),
  };
}

/** Give each node its place. @param {SessionView} view @param {any} tree @param {any[]} branches @returns {Placed[]} */
function place(view, tree, branches) {
  /** @type {Placed[]} */
  const placed = [];
  /** @type {{ node: any, depth: number, parent: Placed | null }[]} Without recursion: a tree may be deep. */
  const waiting = [{ node: tree, depth: 0, parent: null }];
  while (waiting.length && placed.length < NODES_MAX) {
    const { node, depth, parent } = /** @type {{ node: any, depth: number, parent: Placed | null }} */ (waiting.pop());
    const current = node.session_id === view.sessionId;
    const isDeleted = node.state === "deleted";
    /** @type {Placed} */
    const here = {
      id: node.session_id,
      depth,
      row: placed.length,
      title: node.title || (isDeleted ? "Deleted" : "Untitled"),
      about: `${node.state.replace("_", " ")} · ${node.session_id}`,
      kind: node.state,
      parent,
      merged: node.merged_from ?? [],
      act: null,
      href: isDeleted || isShared() || current ? "" : at`#/sessions/${node.session_id}`,
      current,
    };
    placed.push(here);
    if (current && branches.length > 1) placeBranches(view, branches, here, placed);
    for (const child of [...(node.branches ?? [])].reverse()) waiting.push({ node: child, depth: depth + 1, parent: here });
  }
  return placed;
}

/** @param {SessionView} view @param {any[]} branches @param {Placed} session @param {Placed[]} placed */
function placeBranches(view, branches, session, placed) {
  /** @type {Map<string, Placed>} */
  const by = new Map();
  for (const branch of branches) {
    const parent = by.get(branch.parent_branch_id) ?? session;
    /** @type {Placed} */
    const here = {
      id: `branch ${branch.branch_id}`,
      depth: parent.depth + 1,
      row: placed.length,
      title: branch.branch_id,
      about: `${counted(branch.message_count, "message")}${branch.current ? " · current" : ""}`,
      kind: "branch",
      parent,
      merged: [],
      act: branch.current ? null : () => void attempt(() => post(at`/sessions/${view.sessionId}/branches/${branch.branch_id}/select`, {})),
      href: "",
      current: branch.current,
    };
    by.set(branch.branch_id, here);
    placed.push(here);
  }
}

/** @param {Placed[]} placed */
function draw(placed) {
  /** @param {Placed} one */
  const x = (one) => LEFT + one.depth * STEP;
  /** @param {Placed} one */
  const y = (one) => one.row * ROW + ROW / 2;
  const by = new Map(placed.map((one) => [one.id, one]));
  const width = Math.max(...placed.map((one) => x(one) + 330));
  const lines = placed.filter((one) => one.parent).map((one) => {
    const parent = /** @type {Placed} */ (one.parent);
    return svg("path", { class: "line", d: `M${x(parent)} ${y(parent)}V${y(one) - 8}q0 8 8 8H${x(one)}` });
  });
  const merges = placed.flatMap((one) => one.merged.map((id) => by.get(id)).filter((source) => source !== undefined).map((source) =>
    svg("path", { class: "line merge", d: `M${x(source)} ${y(source)}C${x(source) - 14} ${(y(source) + y(one)) / 2} ${x(one) - 14} ${(y(source) + y(one)) / 2} ${x(one)} ${y(one)}` }, svg("title", {}, `${source.title} was merged into ${one.title}`))));
  const nodes = placed.map((one) => {
    const mark = one.kind === "branch"
      ? svg("rect", { class: `node ${one.kind}`, x: x(one) - 6, y: y(one) - 6, width: 12, height: 12, rx: 2 })
      : svg("circle", { class: `node ${/^\w+$/.test(one.kind) ? one.kind : ""}`, cx: x(one), cy: y(one), r: 7 });
    const title = one.title.length > TITLE_CHARS ? `${one.title.slice(0, TITLE_CHARS)}…` : one.title;
    const texts = [svg("text", { x: x(one) + 14, y: y(one) - 2 }, title), svg("text", { class: "about", x: x(one) + 14, y: y(one) + 13 }, one.about)];
    const label = `${one.title}, ${one.about}${one.current ? ", shown here" : ""}`;
    const kind = one.current ? "place current" : "place";
    if (one.href) return svg("a", { class: kind, href: one.href, "aria-label": label }, mark, ...texts);
    if (one.act) {
      const act = one.act;
      return svg("g", { class: `${kind} acts`, role: "button", tabindex: 0, "aria-label": `Select the branch ${label}`, on: { click: act, keydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        act();
      } } }, mark, ...texts);
    }
    return svg("g", { class: kind, role: "img", "aria-label": label }, mark, ...texts);
  });
  return svg("svg", { class: "tree", width, height: placed.length * ROW, role: "group", "aria-label": "Branch tree" }, lines, merges, nodes);
}
