/** Small charts from the gateway's metrics. */

import { h, svg } from "./dom.js";

const POINTS = 60;

/**
 * Read the Prometheus text: each family's values, added up over their labels.
 * @param {string} text
 * @returns {Map<string, number>}
 */
export function readMetrics(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? ([-+.\deE]+|NaN)/.exec(line);
    if (match) sums.set(match[1], (sums.get(match[1]) ?? 0) + Number(match[2]));
  }
  return sums;
}

/**
 * A chart of one figure over time.
 * @param {string} title
 * @param {(value: number) => string} format
 */
export function chart(title, format) {
  /** @type {number[]} */
  const points = [];
  const now = h("strong", {}, "–");
  const line = svg("polyline", { points: "" });
  const area = svg("polygon", { points: "" });
  const picture = svg("svg", { viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img", "aria-label": title }, area, line);
  return {
    element: h("figure", { class: "chart" }, h("figcaption", {}, title, now), picture),
    /** @param {number} value */
    add(value) {
      points.push(value);
      if (points.length > POINTS) points.shift();
      const top = Math.max(...points) || 1;
      const shown = points.map((one, index) => `${((POINTS - points.length + index) / (POINTS - 1)) * 300},${(57 - (one / top) * 54).toFixed(1)}`);
      line.setAttribute("points", shown.join(" "));
      const first = ((POINTS - points.length) / (POINTS - 1)) * 300;
      area.setAttribute("points", `${first},60 ${shown.join(" ")} 300,60`);
      now.textContent = format(value);
      picture.setAttribute("aria-label", `${title}: ${format(value)}; at most ${format(top)} in the time shown`);
    },
  };
}
