// A small line chart as SVG, with the same in words for who does not see it.

import { drawn, element } from "./dom.mjs";
import { KEPT_S } from "./history.mjs";

const [WIDTH, HEIGHT, GAP_S] = [300, 60, 5]; // a line is broken where nothing came for GAP_S

// lines: [{ name, field }], at most two; show: a value as text; most: the scale's end, or undefined for the data's own.
export function chart(title, samples, lines, show, now_s, most) {
  const values = lines.flatMap(({ field }) => samples.map((sample) => sample[field])).filter(Number.isFinite);
  const top = most ?? niceTop(Math.max(0, ...values));
  const latest = lines.map(({ name, field }) => [name, samples.findLast((sample) => Number.isFinite(sample[field]))?.[field]]);
  const said = latest.map(([name, value]) => (value === undefined ? "" : `${name ? `${name} ` : ""}${show(value)}`)).filter(Boolean);
  const text = values.length
    ? `${title}: now ${said.join(", ")}; least ${show(Math.min(...values))} and most ${show(Math.max(...values))} in the last 5 minutes`
    : `${title}: nothing yet`;
  const classes = ["first", "second"];
  return element("figure", {},
    element("figcaption", { "aria-hidden": "true" }, element("span", {}, title),
      element("b", {}, ...latest.map(([name, value], index) => element("span", { class: `key ${classes[index]}` },
        value === undefined ? (index ? "" : "–") : `${index ? " · " : ""}${name ? `${name} ` : ""}${show(value)}`)))),
    drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": text },
      drawn("path", { class: "grid", d: `M0 0.5H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      ...lines.map(({ field }, index) => drawn("path", { class: `line ${classes[index]}`, d: path(samples, field, top, now_s) }))),
    element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "5 min ago"), element("span", {}, `top ${show(top)}`), element("span", {}, "now")));
}

export function path(samples, field, top, now_s) {
  let [d, before] = ["", -Infinity];
  for (const sample of samples) {
    if (!Number.isFinite(sample[field])) continue;
    const x = WIDTH * (1 - (now_s - sample.at_s) / KEPT_S);
    const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, sample[field] / top);
    d += `${sample.at_s - before > GAP_S ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = sample.at_s;
  }
  return d;
}

// 1, 2 or 5 times a power of ten, not below the value.
export function niceTop(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
