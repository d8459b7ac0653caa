// Markdown to data: blocks, with inline nodes in them, or lines (of quotes and lists). Time is linear in the text: what is beyond a
// bound stays plain. A block depends on nothing but its own lines and the two behind it, so that a streamed text need be parsed from
// its last blocks only.

const MAX_DEPTH = 12;
const MAX_INLINE = 20_000; // characters of a paragraph whose inline markup is read
const MAX_CELLS = 5_000;
const MAX_OPEN = 32; // emphasis and brackets that are open at once

const FENCE = /^( *)(`{3,}|~{3,})(.*)$/s;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/s;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: |$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const MATH = new Map([["$$", "$$"], ["\\[", "\\]"]]);

// A text's lines, without what ends them.
export const linesOf = (text) => text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line).replace(/^\t+/, (tabs) => "    ".repeat(tabs.length)));

// The blocks of some lines, each with the number of the first line behind it.
export function blocksOf(lines, depth = 0) {
  const found = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) at++;
    else {
      const [block, end] = nextBlock(lines, at, depth);
      found.push({ block, end });
      at = end;
    }
  }
  return found;
}

function nextBlock(lines, at, depth) {
  if (depth >= MAX_DEPTH) return [{ type: "paragraph", children: [lines.slice(at).join("\n")] }, lines.length];
  const [, block] = kindAt(lines, at) ?? [null, paragraph];
  return block(lines, at, depth);
}

// The kinds of blocks but paragraphs: whether one starts at a line, and the block with the number of the line behind it.
const KINDS = [
  [(lines, at) => fenceOf(lines[at]), codeBlock],
  [(lines, at) => MATH.has(lines[at].trim()), mathBlock],
  [(lines, at) => HEADING.test(lines[at]), heading],
  [(lines, at) => isRule(lines[at]), (_, at) => [{ type: "rule" }, at + 1]],
  [(lines, at) => QUOTE.test(lines[at]), quote],
  [(lines, at) => ITEM.test(lines[at]), list],
  [startsTable, table],
];
const kindAt = (lines, at) => KINDS.find(([starts]) => starts(lines, at));

const isBlank = (line) => !/\S/.test(line);
const isRule = (line) => line.length < 200 && RULE.test(line);
const headingText = (text) => (text.length < 1000 ? text.replace(/(^|[ \t]+)#+[ \t]*$/, "") : text).trim();

function heading(lines, at) {
  const [, marks, text = ""] = HEADING.exec(lines[at]);
  return [{ type: "heading", level: marks.length, children: inline(headingText(text)) }, at + 1];
}

function fenceOf(line) {
  const fence = FENCE.exec(line);
  return fence && !(fence[2][0] === "`" && fence[3].includes("`")) ? { indent: fence[1].length, mark: fence[2], info: fence[3].trim() } : null;
}

function codeBlock(lines, at) {
  const { indent, mark, info } = fenceOf(lines[at]);
  const body = [];
  for (let end = at + 1; end < lines.length; end++) {
    const closing = fenceOf(lines[end]);
    if (closing && !closing.info && closing.mark[0] === mark[0] && closing.mark.length >= mark.length) return [code(), end + 1];
    body.push(unindented(lines[end], indent));
  }
  return [code(), lines.length];

  function code() {
    return { type: "code", language: info.split(/[\s,{]/, 1)[0].slice(0, 30), text: body.join("\n") };
  }
}

function mathBlock(lines, at) {
  const closing = MATH.get(lines[at].trim());
  let end = at + 1;
  while (end < lines.length && !lines[end].trimEnd().endsWith(closing)) end++;
  end = Math.min(end + 1, lines.length);
  return [{ type: "math", text: lines.slice(at, end).join("\n") }, end];
}

function quote(all, at, depth) {
  const lines = [];
  let end = at;
  for (; end < all.length && QUOTE.test(all[end]); end++) lines.push(all[end].replace(QUOTE, ""));
  return [{ type: "quote", lines, depth: depth + 1 }, end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const isOrdered = (marker) => marker.length > 1;
  const ordered = isOrdered(first[2]);
  const base = first[1].length;
  const items = [];
  let width = 0; // the column of the last item's text
  let end = at;
  while (end < lines.length) {
    const line = lines[end];
    if (isBlank(line)) {
      let next = end;
      while (next < lines.length && isBlank(lines[next])) next++;
      if (next < lines.length && !belongs(lines[next]) && !isNextItem(lines[next])) return [made(), next];
      for (; end < next; end++) items.at(-1).push("");
    } else if (isNextItem(line)) {
      const marker = ITEM.exec(line);
      width = marker[1].length + marker[2].length + 1;
      items.push([line.slice(marker[0].length)]);
      end++;
    } else if (belongs(line) || (!isBlank(lines[end - 1]) && !kindAt(lines, end))) {
      items.at(-1).push(unindented(line, width));
      end++;
    } else break;
  }
  return [made(), end];

  function isNextItem(line) {
    const marker = ITEM.exec(line);
    return marker && isOrdered(marker[2]) === ordered && marker[1].length < base + 2 && !isRule(line);
  }
  // models often indent by two where CommonMark wants three
  function belongs(line) {
    return line.length - line.trimStart().length >= base + 2;
  }
  function made() {
    const start = ordered ? Number.parseInt(first[2], 10) : 1;
    return { type: "list", ordered, start, depth: depth + 1, items };
  }
}

function unindented(line, width) {
  let at = 0;
  while (at < width && line[at] === " ") at++;
  return line.slice(at);
}

function startsTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !isDelimiter(lines[at + 1])) return false;
  return cellsOf(lines[at]).length === cellsOf(lines[at + 1]).length;
}

const isDelimiter = (line) => line.includes("|") && /^[\s|:-]+$/.test(line) && cellsOf(line).every((cell) => /^:?-+:?$/.test(cell));

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && !isBlank(lines[end])) end++;
  const head = cellsOf(lines[at]);
  if ((end - at) * head.length > MAX_CELLS) return [{ type: "code", language: "", text: lines.slice(at, end).join("\n") }, end];
  const align = cellsOf(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const rows = lines.slice(at + 2, end).map((line) => {
    const cells = cellsOf(line);
    return head.map((_, column) => inline(cells[column] ?? ""));
  });
  return [{ type: "table", align, head: head.map(inline), rows }, end];
}

function cellsOf(line) {
  const cells = [];
  let from = 0;
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "|") {
      cells.push(text.slice(from, at));
      from = at + 1;
    }
  }
  if (from < text.length) cells.push(text.slice(from));
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !kindAt(lines, end)) end++;
  return [{ type: "paragraph", children: inline(lines.slice(at, end).map((line) => line.trim()).join("\n")) }, end];
}

const SPECIAL = /[\\`*_~[\]<$]|!\[|https?:\/\//g;
const DESTINATION = /\(\s{0,9}((?:[^\s()<>]|\([^\s()<>]{0,500}\)){0,2000})(?:\s{1,9}(?:"[^"]{0,300}"|'[^']{0,300}'))?\s{0,9}\)/y;
const BARE_URL = /https?:\/\/[^\s<>"`\u0000-\u001f]{1,2000}/y;
const BREAK = /<br ?\/?>/iy;
const isSpace = (character) => character === undefined || /\s/.test(character);
const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);

// Strings, and nodes: { type: "em" | "strong" | "del" | "link" | "code" | "math" | "break", children or text, url }.
export function inline(text) {
  if (text.length > MAX_INLINE) return [text];
  const out = [];
  const openers = []; // { kind, at }: where in `out` the mark stands
  const absent = new Set(); // what does not come any more
  let at = 0;

  const say = (piece) => { if (piece) out.push(piece); };
  const open = (kind) => {
    if (openers.length === MAX_OPEN) openers.shift();
    openers.push({ kind, at: out.length });
    out.push(kind);
  };
  const close = (index, node) => {
    const children = out.splice(openers[index].at).slice(1);
    openers.length = index;
    out.push({ ...node, children });
  };
  // the index of `end` from `from` on, or -1
  const find = (end, from) => {
    if (absent.has(end)) return -1;
    const found = text.indexOf(end, from);
    if (found < 0) absent.add(end);
    return found;
  };
  const match = (pattern, from) => {
    pattern.lastIndex = from;
    return pattern.exec(text);
  };

  const spans = {
    "\\"() {
      const next = text[at + 1];
      const closing = { "(": "\\)", "[": "\\]" }[next];
      const end = closing ? find(closing, at + 2) : -1;
      if (end >= 0) return math(end + 2);
      if (next === undefined || !/[!-/:-@[-`{-~]/.test(next)) return plain(1);
      say(next);
      at += 2;
    },
    "`"() {
      const mark = match(/`+/y, at)[0];
      const end = codeEnd(mark);
      if (end < 0) return plain(mark.length);
      const code = text.slice(at + mark.length, end).replaceAll("\n", " ");
      out.push({ type: "code", text: code.length > 2 && code.startsWith(" ") && code.endsWith(" ") ? code.slice(1, -1) : code });
      at = end + mark.length;
    },
    "$"() {
      const mark = text[at + 1] === "$" ? "$$" : "$";
      const end = find(mark, at + mark.length);
      const isMath = end > at + mark.length && (mark === "$$" || (!isSpace(text[at + 1]) && !isSpace(text[end - 1]) && !/\d/.test(text[end + 1] ?? "")));
      return isMath ? math(end + mark.length) : plain(mark.length);
    },
    "<"() {
      const found = match(BREAK, at);
      if (!found) return plain(1);
      out.push({ type: "break" });
      at += found[0].length;
    },
    "["() { open("["); at += 1; },
    "!["() { open("!["); at += 2; },
    "]"() {
      const index = openers.findLastIndex(({ kind }) => kind === "[" || kind === "![");
      const target = index >= 0 && text[at + 1] === "(" ? match(DESTINATION, at + 1) : null;
      if (!target) return plain(1);
      close(index, { type: "link", url: target[1], isImage: openers[index].kind === "![" });
      at += 1 + target[0].length;
    },
    "~": emphasis,
    "*": emphasis,
    _: emphasis,
    http() {
      const found = match(BARE_URL, at);
      if (!found) return plain(4);
      const url = found[0].slice(0, 2000).replace(/[.,;:!?'*_~\])}]{1,20}$/, (end) => (end.startsWith(")") && found[0].includes("(") ? ")" : ""));
      out.push({ type: "link", url, children: [url] });
      at += url.length;
    },
  };

  function plain(length) {
    say(text.slice(at, at + length));
    at += length;
  }
  function math(end) {
    out.push({ type: "math", text: text.slice(at, end) });
    at = end;
  }
  // where a run of exactly as many backticks begins
  function codeEnd(mark) {
    if (absent.has(mark)) return -1;
    const run = /`+/g;
    run.lastIndex = at + mark.length;
    for (let found = run.exec(text); found; found = run.exec(text)) if (found[0].length === mark.length) return found.index;
    absent.add(mark);
    return -1;
  }
  function emphasis() {
    const [run] = match(/~+|\*+|_+/y, at);
    const [mark] = run;
    const [before, after] = [text[at - 1], text[at + run.length]];
    const canOpen = !isSpace(after) && (mark !== "_" || !isWord(before));
    const canClose = !isSpace(before) && (mark !== "_" || !isWord(after));
    let left = run.length;
    if (mark === "~" ? left !== 2 : left > 3) return plain(left);
    at += run.length;
    while (left && canClose) {
      const fits = ({ kind }) => (kind === mark && mark !== "~") || (left > 1 && kind === mark + mark);
      const index = openers.findLastIndex(fits);
      if (index < 0) break;
      const { kind } = openers[index];
      left -= kind.length;
      close(index, { type: mark === "~" ? "del" : kind.length > 1 ? "strong" : "em" });
    }
    if (!canOpen) return say(mark.repeat(left));
    if (left > 1) open(mark + mark);
    if (left % 2) open(mark);
  }

  while (at < text.length) {
    const special = match(SPECIAL, at);
    const next = special?.index ?? text.length;
    plain(next - at);
    if (special) spans[special[0].startsWith("http") ? "http" : special[0]]();
  }
  return out;
}
