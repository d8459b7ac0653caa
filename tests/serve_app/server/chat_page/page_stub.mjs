// A window with index.html in it, as far as the page needs one: what people do is done by `click` and `type`.

import { readFileSync } from "node:fs";

import { all, newElement } from "./dom_stub.mjs";

const FOLDER = new URL("../../../../serve_app/server/chat_page/", import.meta.url);
const VOID = new Set(["meta", "link", "input"]);

function storage() {
  const items = new Map();
  return {
    get length() { return items.size; },
    key: (index) => [...items.keys()][index],
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, String(value)),
    removeItem: (key) => items.delete(key),
  };
}

// What elements have in a window beyond those of dom_stub.mjs.
function inWindow(made) {
  return Object.assign(made, {
    value: "", checked: false, hidden: false, scrollTop: 0, scrollHeight: 0, clientHeight: 0,
    focus() { document.activeElement = made; made.parent?.listeners.focusin?.({ target: made }); },
    click() { (made.onclick ?? made.listeners.click)?.({ target: made }); },
    closest(tag) { return made.tag === tag ? made : made.parent?.closest(tag); },
    querySelector: (name) => [...all(made)].find((one) => `.${one.attributes?.class}` === name) ?? null,
    replaceWith(other) {
      other.parent = made.parent;
      made.parent.children.splice(made.parent.children.indexOf(made), 1, other);
      made.parent = null;
    },
  });
}

function parsed(html) {
  const body = inWindow(newElement());
  let at = body;
  for (const [, closing, tag, rest] of html.matchAll(/<(\/?)(\w+)([^>]*)>/g)) {
    if (closing) at = at.parent ?? at;
    else {
      const made = document.createElement(tag);
      for (const [, name, double, single] of rest.matchAll(/([\w-]+)(?:="([^"]*)"|='([^']*)')?/g)) made.setAttribute(name, double ?? single ?? "");
      made.hidden = "hidden" in made.attributes;
      made.type = made.attributes.type;
      at.append(made);
      if (!VOID.has(tag)) at = made;
    }
  }
  return body;
}

const create = document.createElement;
document.createElement = (tag) => inWindow(create(tag));
const body = parsed(readFileSync(new URL("index.html", FOLDER), "utf8").replace(/^.*<body>/s, ""));
const named = (key, value) => [...all(body)].find((one) => one.attributes?.[key] === value);
Object.assign(document, { body, activeElement: body, getElementById: (id) => named("id", id) ?? null });
const fields = document.getElementById("fields");
fields.elements = Object.fromEntries([...all(fields)].filter((one) => one.attributes?.name).map((one) => [one.attributes.name, one]));
Object.assign(globalThis, {
  localStorage: storage(), sessionStorage: storage(), addEventListener() {}, location: "http://test/behind/?a#b", requestAnimationFrame: (draw) => setTimeout(draw, 1),
  Option: function (text, value = text) { return Object.assign(document.createElement("option"), { value, text }); }, confirm: () => true, prompt: () => "a name",
});

export const $ = document.getElementById;
export const openPage = () => import(new URL("main.mjs", FOLDER));
// the button with this text, the last one if there are several
export const press = (label) => [...all(body)].filter((one) => one.tag === "button" && one.textContent === label).at(-1).click();
export const shown = () => $("chat").textContent;

// Waits until `happens()`.
export async function until(happens) {
  for (let turns = 0; !happens(); turns++) {
    if (turns > 2000) throw new Error(`it did not happen: ${happens}\n${body.html}`);
    await new Promise((done) => setTimeout(done, 2));
  }
}
