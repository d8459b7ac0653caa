// An answer's tokens as a heat map: color and underline by probability, and a tooltip with the alternatives under the pointer or the
// focus, which arrow keys move.

import { element } from "./dom.mjs";
import { visible } from "./render.mjs";
import { percent, piecesOf, stepOf } from "./tokens.mjs";

const STEPS = ["≥ 90 %", "≥ 70 %", "≥ 40 %", "≥ 10 %", "< 10 %"];
const BLANK = { " ": "space", "\n": "line break", "": "nothing" };
let count = 0; // of tooltips, for their ids

// `tokens` as of tokens.mjs.
export function heatMap(tokens) {
  if (tokens === null) return element("p", {}, "This answer is too long: no probabilities were kept.");
  const pieces = piecesOf(tokens);
  const id = `tooltip${++count}`;
  const tooltip = element("div", { class: "tooltip", role: "tooltip", id, hidden: true });
  const spans = pieces.map(({ text, probability }, index) => element("span", {
    class: `heat${stepOf(probability)}`, role: "option", "aria-selected": "false", tabindex: index ? "-1" : "0", "aria-label": BLANK[text],
  }, visible(text).replaceAll("\n", "↵\n") || "∅"));
  const places = new Map(spans.map((span, index) => [span, index]));
  const list = element("div", { class: "tokens", role: "listbox", "aria-label": "Tokens", dir: "auto", onkeydown: move, onfocusin: show, onfocusout: hide, onpointerover: show }, ...spans);
  const legend = element("div", { class: "legend" }, ...STEPS.map((text, step) => element("span", { class: `heat${step}` }, text)));
  let shown = spans[0];
  return element("div", { class: "heat", onpointerleave: hide }, legend, list, tooltip);

  function show({ target }) {
    if (!places.has(target)) return;
    mark(shown, false);
    shown = target;
    mark(shown, true);
    shown.setAttribute("aria-describedby", id);
    tooltip.replaceChildren(...described(pieces[places.get(shown)]));
    tooltip.hidden = false;
    place(shown, tooltip);
  }
  function mark(span, isShown) {
    span.setAttribute("aria-selected", String(isShown));
    span.setAttribute("tabindex", isShown ? "0" : "-1");
    span.removeAttribute("aria-describedby");
  }
  function hide() {
    tooltip.hidden = true;
  }
  function move(event) {
    const at = places.get(shown);
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    spans[next]?.focus();
  }
}

// What a tooltip says of a piece: how probable it was, and the alternatives of each of its tokens.
function described({ text, probability, tokens }) {
  const line = (tag, name, value) => element(tag, {}, element("code", {}, BLANK[name] ?? visible(name).replaceAll("\n", "↵")), ` ${percent(value)}`);
  return [line("p", text, probability), ...tokens.map(({ top }) => element("ul", {}, ...top.map((other) => line("li", other.text, Math.exp(other.logprob)))))];
}

// Under the token, or over it at the end of the conversation.
function place(span, { style, offsetWidth, offsetHeight, parentNode }) {
  const { offsetLeft: left, offsetTop: top, offsetHeight: height } = span;
  const isOver = span.getBoundingClientRect().bottom + offsetHeight > parentNode.closest("main")?.getBoundingClientRect().bottom;
  style.left = `${Math.max(0, Math.min(left, parentNode.clientWidth - offsetWidth))}px`;
  style.top = `${isOver ? top - offsetHeight : top + height}px`;
}
