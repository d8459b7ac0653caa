// Markdown: what it becomes, that hostile text stays text, and what it costs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { all, newElement } from "./dom_stub.mjs";

const { markdownView, safeUrl } = await import("../../../../serve_app/server/chat_page/render.mjs");

function drawn(...pieces) {
  const container = newElement();
  const view = markdownView(container);
  for (const piece of pieces) view.append(piece);
  return container;
}

// without attributes and the bars of code
const html = (text) => drawn(text).html.replace(/<div class="bar">.*?<\/div>/g, "").replace(/<(\w+)[^>]*>/g, "<$1>").slice(5, -6);

for (const [name, text, wanted] of [
  ["headings", "# One\n### Two ##\n#none", "<h2>One</h2><h4>Two</h4><p>#none</p>"],
  ["paragraphs", "a\nb\n\nc", "<p>a\nb</p><p>c</p>"],
  ["emphasis", "*a* **b** ***c*** ~~d~~ _e_ __f__", "<p><em>a</em> <strong>b</strong> <strong><em>c</em></strong> <del>d</del> <em>e</em> <strong>f</strong></p>"],
  ["what is no emphasis", "2 * 3 * 4, a_b_c, *open", "<p>2 * 3 * 4, a_b_c, *open</p>"],
  ["emphasis that overlaps", "*a **b* c**", "<p><em>a **b</em> c**</p>"],
  ["escapes", "\\*a\\* \\d", "<p>*a* \\d</p>"],
  ["inline code", "`a*b*` ``c`d``", "<p><code>a*b*</code> <code>c`d</code></p>"],
  ["fenced code", "```\n<b>\n# x\n```\nafter", "<div><pre><code><span>&lt;b&gt;\n# x</span></code></pre></div><p>after</p>"],
  ["code that is not closed", "~~~py\nx", "<div><pre><code><span>x</span></code></pre></div>"],
  ["quotes", "> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"],
  ["lists", "- a\n- b\n  - c\n\n1. d\n2. e", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li></ul><ol><li><p>d</p></li><li><p>e</p></li></ol>"],
  ["a list with code", "1. a\n\n   ```\n   x\n   ```\n2. b", "<ol><li><p>a</p><div><pre><code><span>x</span></code></pre></div></li><li><p>b</p></li></ol>"],
  ["a rule", "a\n\n---\n* * *", "<p>a</p><hr></hr><hr></hr>"],
  ["tables", "| a | b |\n|---|:-:|\n| `x\\|y` | 2 |\n| 3 |\nafter",
    "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><code>x|y</code></td><td>2</td></tr><tr><td>3</td><td></td></tr></tbody></table></div><p>after</p>"],
  ["links", "[a *b*](https://x.org/c_d_e) https://y.org https://z.org/(q).", "<p><a>a <em>b</em></a> <a>https://y.org</a> <a>https://z.org/(q)</a>.</p>"],
  ["images as links", "![a cat](https://x.org/cat.png)", "<p><a>Image: a cat</a></p>"],
  ["mathematics as it is written", "$a_1 * b_2$ and \\(x_i * y_i\\) for $5 or $6\n\n\\[\na_1 * b * c\n\\]",
    "<p><span>$a_1 * b_2$</span> and <span>\\(x_i * y_i\\)</span> for $5 or $6</p><pre>\\[\na_1 * b * c\n\\]</pre>"],
  ["words of JavaScript", "constructor\ntoString", "<p>constructor\ntoString</p>"],
  ["breaks in cells", "a<br>b<BR/>c", "<p>a<br></br>b<br></br>c</p>"],
]) test(`it draws ${name}`, () => assert.equal(html(text), wanted));

test("code has colors for what is known", () => {
  const code = drawn('```python\ndef f(x):  # note\n    return "a" + 1\n```').html;
  assert.ok(drawn("```sql\nSELECT a\n```").html.includes('"keyword">SELECT<'));
  for (const piece of ['"keyword">def<', '"comment"># note<', '"keyword">return<', '"string">&quot;a&quot;<', '"number">1<']) assert.ok(code.includes(piece), piece);
});

const HOSTILE = [
  "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "# <svg/onload=alert(1)>", "```html\n<script>alert(1)</script>\n```", "`<b onclick=x>`",
  "|<iframe>|a|\n|-|-|\n|<object>|<style>|", "> <math>\n- <a href='javascript:x'>", "[a](javascript:alert(1))", "[a](JaVaScRiPt:alert(1))", "[a](java\tscript:alert(1))",
  "[a](<java\u0000script:alert(1)>)", "[a](\u0001javascript:alert(1))", "[a](data:text/html,<script>)", "[a](vbscript:x)", "[a](//evil.example)", "![a](javascript:x)",
  '[a](https://x.org/"onmouseover="alert(1))', "<javascript:alert(1)>", "[a](https&#58;//x)", "[a](file:///etc/passwd)", '```"><script>\nx\n```', "[[a](https://x.org)](javascript:x)",
];
const TAGS = new Set("div p h2 h3 h4 h5 h6 hr blockquote pre code span button ol ul li table thead tbody tr th td a em strong del br".split(" "));
const ATTRIBUTES = new Set(["class", "dir", "href", "title", "target", "rel", "tabindex", "start", "type"]);

test("hostile text stays text", () => {
  for (const text of [...HOSTILE, HOSTILE.join("\n\n")]) {
    for (const node of all(drawn(text))) {
      if (!node.tag) continue;
      assert.ok(TAGS.has(node.tag), node.tag);
      for (const [name, value] of Object.entries(node.attributes)) {
        assert.ok(ATTRIBUTES.has(name), name);
        if (name === "href") assert.match(value, /^(https?:\/\/|mailto:)/);
      }
      if (node.tag === "a") assert.deepEqual([node.attributes.rel, node.attributes.target], ["noopener noreferrer nofollow", "_blank"]);
      for (const name of Object.keys(node.listeners)) assert.equal(node.attributes.type, "button", name);
    }
  }
  assert.equal(html("<script>alert(1)</script>"), "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>");
});

test("only http, https and mailto are links", () => {
  for (const url of ["https://x.org/a", "HTTP://x.org", "mailto:a@x.org"]) assert.notEqual(safeUrl(url), null, url);
  for (const url of ["javascript:x", " https://x.org", "https://x\n.org", "ftp://x", "https:x.org", "", "https://", "\u200bjavascript:x"]) assert.equal(safeUrl(url), null, url);
});

test("marks of direction are visible in code and addresses", () => {
  const text = drawn("`a\u202eb`\n\n```\nif (x\u2066) {\n```\n\n[a](x:\u202ey)").textContent;
  assert.ok(!/[\u202e\u2066]/.test(text));
  assert.ok(text.includes("a[U+202E]b") && text.includes("x[U+2066]"));
});

const MEGABYTE = 1_000_000;
const fill = (piece) => piece.repeat(Math.ceil(MEGABYTE / piece.length));
for (const [name, text] of [
  ["a line", fill("a")], ["spaces", `-${fill(" ")}x`], ["spaces in a heading", `# a${fill(" ")}x`], ["backticks", fill("`")], ["runs of backticks", Array.from({ length: 1400 }, (_, n) => "`".repeat(n)).join(" ")],
  ["a fence of spaces", "```" + fill(" ") + "`"], ["stars", fill("*a ")], ["stars in paragraphs", fill(`${"*a b_ **c ".repeat(1900)}\n\n`)], ["brackets", fill(`${"[".repeat(19_000)}\n\n`)],
  ["closing brackets", fill(`${"[](".repeat(6000)}\n\n`)], ["images", fill(`${"![a](".repeat(3000)}\n\n`)], ["dollars", fill(`${"$a ".repeat(6000)}\n\n`)], ["backslashes", fill(`${"\\(".repeat(9000)}\n\n`)],
  ["angles", fill(`${"<https://".repeat(2000)}\n\n`)], ["quotes", fill(">")], ["quotes of many lines", fill(`${">".repeat(10_000)} a\n`)], ["lists in lists", fill("- ")],
  ["rows", `|a|b|\n|-|-|\n${fill("|1|2|\n")}`], ["columns", `${fill("|a")}|\n${fill("|-")}|\n${fill("|1")}|`], ["pipes", fill("|")], ["delimiters", `|a\n|${fill(" ")}x`],
  ["short lines", fill("a\n")], ["paragraphs", fill("some words of a paragraph\n\n")], ["blank lines in a list", `- a\n${fill("\n")}x`], ["code", `\`\`\`js\n${fill('"\\')}`], ["comments", `\`\`\`js\n${"/*".repeat(24_000)}`],
  ["addresses", fill(`${"https://a.b/)))".repeat(1300)}\n\n`)],
]) test(`1 MB of ${name} takes a second or two of a processor`, () => { // what is not linear takes minutes
  const began = process.cpuUsage();
  drawn(text);
  const { user, system } = process.cpuUsage(began);
  assert.ok(user + system < 3e6, `${user + system} us`);
});

test("10,000 nested quotes and lists are as deep as the bound", () => {
  for (const text of [`${">".repeat(10_000)} a`, `${"- ".repeat(10_000)}a`, `${"*a **b ".repeat(5000)}${"c** d* ".repeat(5000)}`.slice(0, 19_999)]) {
    const depth = (node) => 1 + Math.max(0, ...(node.children ?? []).map(depth));
    assert.ok(depth(drawn(text)) < 80);
  }
});

// the same numbers in every run
function random(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

test("a streamed text looks at every cut as the same text drawn at once", () => {
  const pieces = ["# ", "a", " b", "\n", "\n\n", "- ", "  - ", "1. ", "> ", "```", "```js\n", "~~~", "|", "|-|-|\n", "---", "|a|b|\n", "*", "**", "`", "$$", "$$\n", "[x](https://x.org)", "\r\n", "\\[\n", "   ", "\t", "'s", "<br>", "_"];
  for (let seed = 1; seed <= 300; seed++) {
    const next = random(seed);
    const container = newElement();
    const view = markdownView(container);
    let whole = "";
    for (let step = 0; step < 40; step++) {
      let piece = pieces[Math.floor(next() * pieces.length)];
      if (next() < 0.3 && piece.length > 1) piece = piece.slice(0, 1 + Math.floor(next() * (piece.length - 1)));
      whole += piece;
      view.append(piece);
      assert.equal(container.html, drawn(whole).html, JSON.stringify(whole));
    }
  }
});

test("blocks that are complete stay the elements that they are", () => {
  const container = newElement();
  const view = markdownView(container);
  view.append("one\n\n```\ncode\n```\n\nthree\n\nfo");
  const [one, code] = container.children;
  view.append("ur\n\nfive");
  assert.ok(container.children[0] === one && container.children[1] === code);
  assert.equal(container.children.length, 5);
});

test("items of a list that is being written stay the elements that they are", () => {
  const container = newElement();
  const view = markdownView(container);
  view.append("- a\n- b\n- c");
  const items = [...container.children[0].children];
  view.append(" more\n- d");
  assert.deepEqual(container.children[0].children.map((item) => items.indexOf(item)), [0, 1, -1, -1]);
  view.append("\n\n");
  assert.equal(container.textContent, "abc mored");
});

const CODE = ["def f(x):  # a note", "    return 'a', 12", '"""text', 'of two lines"""', "", "`a", "\u202e/* b", "*/ // c", "-- d", "select 1"];

function* pieceByPiece(seed, numLines) {
  const next = random(seed);
  for (let line = 0; line < numLines; line++) {
    const text = `${CODE[Math.floor(next() * CODE.length)]}\n`;
    const cut = Math.floor(next() * text.length);
    yield text.slice(0, cut);
    yield text.slice(cut);
  }
}

for (const language of ["python", "js", "sql", ""]) {
  test(`long code ${language && `in ${language} `}is drawn piece by piece as at once, and ends where its fence does`, () => {
    for (let seed = 1; seed <= 10; seed++) {
      const container = newElement();
      const view = markdownView(container);
      let whole = "";
      for (const piece of [`\`\`\`${language}\n`, ...pieceByPiece(seed, 80), "``", "`\n", "\nbehind\n\n"]) {
        whole += piece;
        view.append(piece);
        assert.equal(container.html, drawn(whole).html, JSON.stringify(whole));
      }
      assert.equal(container.children[0].childNodes[1].textContent, whole.replaceAll("\u202e", "[U+202E]").slice(4 + language.length, -"\n```\n\nbehind\n\n".length));
    }
  });
}

test("complete lines of code that is being written stay the elements that they are", () => {
  const container = newElement();
  const view = markdownView(container);
  view.append(`\`\`\`js\n${"let a = 1;\n".repeat(40)}`);
  const code = [...all(container)].find(({ tag }) => tag === "code");
  const before = [...code.children];
  view.append("let b");
  assert.ok(before.length >= 5 && before.slice(0, -1).every((box, index) => box === code.children[index]));
});

test("code that is being written keeps its element and its button", () => {
  const container = newElement();
  const view = markdownView(container);
  view.append("```js\nlet a");
  const [code] = container.children;
  view.append(" = 1;\n");
  assert.ok(container.children[0] === code && code.textContent.includes("let a = 1;"));
});
