// Colors code: comments, strings, numbers and the usual keywords, for most languages alike.

const MAX_LENGTH = 50_000;
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

// Pieces of the code, in order: { kind: "comment" | "string" | "number" | "keyword" | "", text }.
export function highlight(code, language) {
  const name = language.toLowerCase();
  if (code.length > MAX_LENGTH || !name || NO_CODE.has(name)) return [{ kind: "", text: code }];
  const pattern = patterns[HASH.has(name) ? "hash" : DASHES.has(name) ? "dashes" : "slashes"];
  const pieces = [];
  let plain = 0; // where the text without a color begins
  for (const found of code.matchAll(pattern)) {
    const [, comment, string, number, word] = found;
    const kind = comment ? "comment" : string ? "string" : number ? "number" : (name === "sql" ? SQL.has(word.toLowerCase()) : KEYWORDS.has(word)) ? "keyword" : "";
    if (!kind) continue;
    if (found.index > plain) pieces.push({ kind: "", text: code.slice(plain, found.index) });
    pieces.push({ kind, text: found[0] });
    plain = found.index + found[0].length;
  }
  if (plain < code.length || !pieces.length) pieces.push({ kind: "", text: code.slice(plain) });
  return pieces;
}
