// Tokens with their probabilities: what is kept of them, and the heat map that they become.

import assert from "node:assert/strict";
import { test } from "node:test";

import { all } from "./dom_stub.mjs";

const { checkedTokens, MAX_TOKENS, percent, piecesOf, stepOf, withTokens } = await import("../../../../serve_app/server/chat_page/tokens.mjs");
const { heatMap } = await import("../../../../serve_app/server/chat_page/heat_map.mjs");

const bytesOf = (text) => [...new TextEncoder().encode(text)];
const token = (text, probability = 1, others = []) => ({
  token: text, logprob: Math.log(probability), bytes: bytesOf(text), top_logprobs: others.map(([other, p]) => ({ token: other, logprob: Math.log(p), bytes: bytesOf(other) })),
});
const byte = (value, logprob = 0) => ({ token: "\ufffd", logprob, bytes: [value], top_logprobs: [] });
const keptOf = (...content) => withTokens([], content);
const texts = (...content) => piecesOf(keptOf(...content)).map(({ text }) => text);
const spansOf = (map) => [...all(map)].filter(({ attributes }) => attributes?.role === "option");
const tooltipOf = (map) => [...all(map)].find(({ attributes }) => attributes?.role === "tooltip");
const listOf = (map) => [...all(map)].find(({ attributes }) => attributes?.role === "listbox");

test("parts of characters are joined, and their probabilities multiplied", () => {
  const [before, fish, after] = piecesOf(keptOf(token("a"), ...bytesOf("\u{1f41f}").map((value) => byte(value, Math.log(0.5))), token("b")));
  assert.deepEqual([before.text, fish.text, after.text], ["a", "\u{1f41f}", "b"]);
  assert.deepEqual([fish.tokens.length, percent(fish.probability)], [4, "6.3 %"]);
});

test("bytes that make no character hide no others", () => {
  const [first, second] = bytesOf("\u00e9");
  assert.deepEqual(texts(byte(255), token("a"), byte(first), byte(first), byte(second), byte(first)), ["\ufffd", "a", "\ufffd", "\u00e9", "\ufffd"]);
  assert.deepEqual(texts({ token: "</s>", logprob: 0, bytes: [], top_logprobs: [] }), ["</s>"]);
});

test("the pieces of any cut of a text are that text", () => {
  const text = "a\u00e9\u{1f41f}\ufeff\n\u4e2d";
  const bytes = bytesOf(text);
  for (let size = 1; size < 6; size++) {
    const isWhole = (part) => !new TextDecoder().decode(Uint8Array.from(part)).includes("\ufffd");
    const cut = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => ({ token: "?", logprob: 0, bytes: bytes.slice(index * size, index * size + size), top_logprobs: [] }));
    for (const one of cut) if (isWhole(one.bytes)) one.token = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(one.bytes));
    assert.equal(texts(...cut).join(""), text, String(size));
  }
});

test("an answer of too many tokens keeps none", () => {
  const full = withTokens([], Array(MAX_TOKENS).fill(token("a")));
  assert.equal(full.length, MAX_TOKENS);
  assert.equal(withTokens(full, [token("a")]), null);
  assert.equal(withTokens(null, [token("a")]), null);
  assert.match(heatMap(null).textContent, /too long/);
});

test("what was kept is read again, and nothing else is", () => {
  const tokens = keptOf(token("a", 0.5, [["b", 0.25]]), byte(255));
  assert.deepEqual(checkedTokens(JSON.parse(JSON.stringify(tokens))), tokens);
  assert.equal(checkedTokens(null), null);
  for (const wrong of [undefined, {}, "a", [null], [{ text: 1, logprob: 0, top: [] }], [{ text: "a", logprob: "0", top: [] }], [{ text: "a", logprob: 0 }], [{ text: "a", logprob: 0, top: [{}] }]]) {
    assert.deepEqual(checkedTokens(wrong), []);
  }
  assert.equal(checkedTokens(Array(MAX_TOKENS + 1).fill(tokens[0])), null);
});

test("the less probable, the stronger", () => {
  assert.deepEqual([1, 0.9, 0.89, 0.5, 0.2, 0.05, 0].map(stepOf), [0, 0, 1, 2, 3, 4, 4]);
  assert.deepEqual([1, 0.123, 0.00001, 0].map(percent), ["100.0 %", "12.3 %", "< 0.1 %", "0.0 %"]);
});

test("the token that has the focus is described with its alternatives", () => {
  const map = heatMap(keptOf(token("yes", 0.6, [["yes", 0.6], ["no", 0.3]]), token("\n")));
  const [span, other] = spansOf(map);
  listOf(map).listeners.focusin({ target: span });
  assert.equal(span.attributes["aria-describedby"], tooltipOf(map).attributes.id);
  assert.match(tooltipOf(map).textContent, /^yes 60.0 %yes 60.0 %no 30.0 %$/);
  listOf(map).listeners.pointerover({ target: other });
  assert.equal(span.attributes["aria-describedby"], undefined);
  assert.match(tooltipOf(map).textContent, /^line break 100.0 %/);
});

test("arrow keys go from token to token, one of which takes the focus of a tab", () => {
  const map = heatMap(keptOf(token("a"), token("b"), token("c")));
  const spans = spansOf(map);
  for (const span of spans) span.focus = () => listOf(map).listeners.focusin({ target: span });
  const press = (key) => {
    listOf(map).listeners.keydown({ key, preventDefault() {}, stopPropagation() {} });
    return spans.filter(({ attributes }) => attributes.tabindex === "0").map(({ textContent }) => textContent).join();
  };
  assert.deepEqual(["ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft", "End"].map(press), ["b", "c", "c", "b", "a", "a", "c"]);
  press("Escape");
  assert.equal(tooltipOf(map).hidden, true);
});

test("tokens become text, never markup, and show the marks that turn text around", () => {
  const hostile = "<img src=x onerror=alert(1)>\u202e";
  const map = heatMap(keptOf(token(hostile, 0.5, [[hostile, 0.5]])));
  listOf(map).listeners.focusin({ target: spansOf(map)[0] });
  assert.ok(!/<img|\u202e/.test(map.html) && map.textContent.split("[U+202E]").length === 4);
});
