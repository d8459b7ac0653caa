// Markdown to elements, whole or as it comes. What a model writes becomes text, and links of three schemes; never markup.

import { copyButton, element } from "./dom.mjs";
import { highlight } from "./highlight.mjs";
import { blocksOf, linesOf } from "./markdown.mjs";

// Draws a growing text into `container`. Blocks that are complete stay as they are.
export function markdownView(container) {
  let rest = ""; // of the text, from the first block that may still change
  let open = []; // that block's element and those behind it
  return {
    append(text) {
      rest += text;
      const lines = linesOf(rest);
      const found = blocksOf(lines);
      // the line that is being written may still end a block or begin another; a table shows in its second line
      const complete = found.filter(({ end }) => end + 2 < lines.length).length;
      const shown = found.map(({ block }, index) => render(block, open[index]));
      for (const [index, old] of open.entries()) if (old !== shown[index]) old.remove();
      const stay = open.length && shown[0] === open[0] ? 1 : 0;
      for (const one of shown.slice(stay)) container.append(one);
      if (complete) rest = rest.split("\n").slice(found[complete - 1].end).join("\n");
      open = shown.slice(complete);
    },
  };
}

// `old`, where it is given, is taken for the element if it only needs more text: its place and its buttons stay.
export function render(block, old) {
  switch (block.type) {
    case "paragraph": return element("p", { dir: "auto" }, ...inlineNodes(block.children));
    case "heading": return element(`h${Math.min(6, block.level + 1)}`, { dir: "auto" }, ...inlineNodes(block.children));
    case "rule": return element("hr");
    case "quote": return element("blockquote", {}, ...rendered(block.lines, block.depth));
    case "math": return element("pre", { class: "math" }, visible(block.text));
    case "code": return codeElement(block, old);
    case "list": return listElement(block, old);
    case "table": return tableElement(block);
  }
}

const rendered = (lines, depth) => blocksOf(lines, depth).map(({ block }) => render(block));

// `old` keeps the items whose lines are the same.
function listElement({ ordered, start, items, depth }, old) {
  const sources = items.map((lines) => lines.join("\n"));
  const isSame = old?.list?.ordered === ordered && old.list.start === start;
  const changed = isSame ? sources.findIndex((source, index) => source !== old.list.sources[index]) : 0;
  const kept = changed < 0 ? sources.length : changed;
  const made = isSame ? old : element(ordered ? "ol" : "ul", { start: ordered && start !== 1 && String(start) });
  while (made.childNodes.length > kept) made.lastChild.remove();
  made.append(...items.slice(kept).map((lines) => element("li", {}, ...rendered(lines, depth))));
  return Object.assign(made, { list: { ordered, start, sources } });
}

// Code is in boxes of some lines. Those that are complete are never looked at, laid out or painted again.
function codeElement({ language, text }, old) {
  const made = old?.code && old.language === language ? old : newCode(language);
  const shown = visible(text);
  const lastLine = shown.lastIndexOf("\n"); // it may still turn out to be the end of the block
  while (made.code.childNodes.length > made.count) made.code.lastChild.remove();
  for (const { pieces, end } of highlight(shown, language, made.end)) {
    made.code.append(element("span", { class: "lines" }, ...pieces.map(({ kind, text }) => (kind ? element("span", { class: kind }, text) : text))));
    if (end <= lastLine) Object.assign(made, { end, count: made.code.childNodes.length });
  }
  return Object.assign(made, { text });
}

function newCode(language) {
  const code = element("code");
  const made = element("div", { class: "code" },
    element("div", { class: "bar" }, element("span", {}, language), copyButton("Copy", () => made.text)), element("pre", { tabindex: "0" }, code));
  return Object.assign(made, { code, language, count: 0, end: 0 }); // complete boxes, and the characters in them
}

function tableElement({ align, head, rows }) {
  const row = (tag, cells) => element("tr", {}, ...cells.map((cell, column) => element(tag, { class: align[column], dir: "auto" }, ...inlineNodes(cell))));
  return element("div", { class: "table", tabindex: "0" },
    element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...rows.map((cells) => row("td", cells)))));
}

function inlineNodes(nodes, inLink = false) {
  const found = [];
  for (const node of nodes) {
    if (typeof node !== "string") found.push(...nodesOf(node, inLink));
    else if (typeof found.at(-1) === "string") found.push(found.pop() + node);
    else found.push(node);
  }
  return found;
}

function nodesOf(node, inLink) {
  switch (node.type) {
    case "code": return [element("code", {}, visible(node.text))];
    case "math": return [element("span", { class: "math" }, visible(node.text))];
    case "break": return [element("br")];
    case "link": return linkNodes(node, inLink);
    default: return [element(node.type, {}, ...inlineNodes(node.children, inLink))];
  }
}

function linkNodes({ url, children, isImage }, inLink) {
  const label = inlineNodes(children, true);
  if (inLink) return label; // no link within a link
  const href = safeUrl(url);
  if (href === null) return [...label, ` (${visible(url)})`];
  const attributes = { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return [element("a", attributes, ...(isImage ? ["Image: "] : []), ...(label.length ? label : [visible(url)]))];
}

// The address as browsers read it, or null if it is none of http, https and mailto.
export function safeUrl(text) {
  if (/[\u0000-\u0020\u007f-\u009f]/.test(text) || !/^(?:https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

// Marks that turn the direction of text would let code read other than it runs: they are shown by their names.
export const visible = (text) => text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (mark) => `[U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
