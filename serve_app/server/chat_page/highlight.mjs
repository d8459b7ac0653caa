// Colors code: comments, strings, numbers and the usual keywords, for most languages alike.

const MAX_LENGTH = 50_000; // characters of a block that are colored
const LINES = 8; // of a part
const KEYWORDS = new Set(
  ("and as assert async await bool break case catch char class const continue def default defer del do done double elif else end enum except export " +
    "extends false fi finally float fn for from func function go if impl implements import in int interface is lambda let loop match mod mut new nil " +
    "none None not null or package pass private public pub raise return self static string struct super switch then this throw trait true True False " +
    "try type undefined use using var void when where while with yield").split(" "),
);
const SQL = new Set(
  ("select insert update delete from where into values create table join left inner outer on group by order limit having union distinct " +
    "and or not null as in is case when then else end set with").split(" "),
);
const NO_CODE = new Set("text plain txt markdown md output log".split(" "));
const HASH = new Set("python py bash sh shell zsh ruby rb yaml yml toml r perl makefile dockerfile elixir julia nix ini console powershell cmake".split(" "));
const DASHES = new Set("sql lua haskell hs ada elm".split(" "));

const STRING = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|` + "`(?:\\\\[^]|[^`\\\\])*`?";
const REST = String.raw`(\b\d[\w.]*)|([\p{L}_$][\p{L}\p{N}_$]*)`; // numbers, words
const COMMENTS = { hash: "#[^\\n]*", dashes: "--[^\\n]*", slashes: "//[^\\n]*|/\\*[^]*?(?:\\*/|$)" };
const patterns = Object.fromEntries(
  Object.entries(COMMENTS).map(([kind, comment]) => [kind, new RegExp(`(${comment})|(${STRING})|${REST}`, "gu")]),
);

// The code from `from` on, in parts of some whole lines: { pieces, end }, with pieces { kind: "comment" | "string" | "number" |
// "keyword" | "", text }. A part ends where nothing is open, so that what is behind its end does not change it.
export function* highlight(code, language, from = 0) {
  let [at, end, pieces] = [from, linesEnd(code, from, LINES), []];
  for (const { index, kind, text } of colored(code, language.toLowerCase(), from)) {
    while (index >= end) yield part();
    take("", index);
    take(kind, index + text.length);
    if (at > end) end = linesEnd(code, at, 1);
  }
  while (pieces.length || at < code.length) yield part();

  function take(kind, until) {
    if (until > at) pieces.push({ kind, text: code.slice(at, until) });
    at = until;
  }
  function part() {
    take("", end);
    const made = { pieces, end };
    [end, pieces] = [linesEnd(code, end, LINES), []];
    return made;
  }
}

// What has a color.
function* colored(code, name, from) {
  if (!name || NO_CODE.has(name)) return;
  const pattern = patterns[HASH.has(name) ? "hash" : DASHES.has(name) ? "dashes" : "slashes"];
  pattern.lastIndex = from; // where matchAll begins
  for (const found of code.matchAll(pattern)) {
    const [text, comment, string, number, word] = found;
    if (found.index > MAX_LENGTH) return;
    const kind = comment ? "comment" : string ? "string" : number ? "number" : (name === "sql" ? SQL.has(word.toLowerCase()) : KEYWORDS.has(word)) ? "keyword" : "";
    if (kind) yield { index: found.index, kind, text };
  }
}

// The index behind the end of so many lines.
function linesEnd(code, at, count) {
  for (; count && at < code.length; count--) at = code.indexOf("\n", at) + 1 || code.length;
  return at;
}
