// Conversations in the browser: bounds, search, export and import.

import assert from "node:assert/strict";
import { test } from "node:test";

import { browserStorage, chatStore, exported, imported } from "../../../../serve_app/server/chat_page/store.mjs";
import { add, newTree, path } from "../../../../serve_app/server/chat_page/tree.mjs";

function chat(id, changed, content = "hello") {
  const tree = newTree();
  add(tree, "root", { role: "user", content });
  return { id, title: `chat ${id}`, changed, tree };
}
function storage() {
  const items = new Map();
  return {
    get length() { return items.size; },
    key: (index) => [...items.keys()][index],
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
  };
}
const ids = (chats) => chats.map(({ id }) => id).join("");

test("it lists what was changed last first, and forgets what is removed", () => {
  const store = chatStore(storage());
  for (const [id, changed] of [["a", 1], ["b", 3], ["c", 2]]) store.save(chat(id, changed));
  assert.equal(ids(store.list()), "bca");
  store.remove("c");
  store.save(chat("a", 4));
  assert.equal(ids(store.list()), "ab");
  assert.equal(store.load("a").title, "chat a");
  assert.equal(store.load("c"), null);
});

test("the one that was not changed for longest goes first", () => {
  const store = chatStore(storage(), { maxCount: 2 });
  for (const [id, changed] of [["a", 1], ["b", 2], ["c", 3]]) store.save(chat(id, changed));
  assert.equal(ids(store.list()), "cb");
});

test("it keeps at most so many characters", () => {
  const store = chatStore(storage(), { maxLength: 2500 });
  for (const [id, changed] of [["a", 1], ["b", 2], ["c", 3]]) store.save(chat(id, changed, "x".repeat(800)));
  assert.equal(ids(store.list()), "cb");
  assert.throws(() => store.save(chat("d", 4, "x".repeat(3000))), /too long/);
  assert.equal(ids(store.list()), "cb");
});

test("where the browser has less room, older ones make it", () => {
  const full = storage();
  const set = full.setItem;
  const store = chatStore(full);
  for (const [id, changed] of [["a", 1], ["b", 2]]) store.save(chat(id, changed));
  full.setItem = (key, value) => {
    if (full.length >= 2) throw new Error("QuotaExceededError");
    set(key, value);
  };
  store.save(chat("c", 3));
  assert.equal(ids(store.list()), "cb");
  full.setItem = () => { throw new Error("QuotaExceededError"); };
  assert.throws(() => store.save(chat("d", 4)), /no room/);
});

test("it finds all words, in titles and messages", () => {
  const store = chatStore(storage());
  store.save(chat("a", 1, "the Quick fox"));
  store.save(chat("b", 2, "the dog"));
  assert.equal(ids(store.search("THE fox")), "a");
  assert.equal(ids(store.search("chat the")), "ba");
});

test("what is damaged in the browser is passed over", () => {
  const damaged = storage();
  damaged.setItem("manta.chat.x", "{");
  damaged.setItem("manta.chat.y", '{"id":"y"}');
  damaged.setItem("other", "{");
  const store = chatStore(damaged);
  store.save(chat("a", 1));
  assert.equal(ids(store.list()), "a");
});

test("an export comes back under a new id", () => {
  const [back] = imported(exported([chat("a", 1, "hi")]));
  assert.notEqual(back.id, "a");
  assert.equal(path(back.tree)[0].content, "hi");
});

test("a damaged import says what is wrong", () => {
  assert.throws(() => imported("{"), /not JSON/);
  for (const text of ["null", "[]", "{}", '{"format":"manta-chats","chats":{}}']) assert.throws(() => imported(text), /no export/, text);
  for (const one of [null, 1, {}, { tree: {} }, { tree: { nodes: { root: { children: ["m1"] } } } }])
    assert.throws(() => imported(JSON.stringify({ format: "manta-chats", chats: [one] })), /Conversation 1/, JSON.stringify(one));
});

test("where the browser forbids storage, nothing is kept and nothing fails", () => {
  const store = chatStore(browserStorage("nothing"));
  store.save(chat("a", 1));
  assert.deepEqual(store.list(), []);
});
