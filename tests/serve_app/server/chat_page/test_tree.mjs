// The tree of messages: nothing is lost by editing and regenerating.

import assert from "node:assert/strict";
import { test } from "node:test";

import { add, branch, checkedTree, newTree, path, turn } from "../../../../serve_app/server/chat_page/tree.mjs";

const said = (tree) => path(tree).map(({ content }) => content).join(" ");
const user = (content) => ({ role: "user", content });
const answer = (content) => ({ role: "assistant", content });

function talk() {
  const tree = newTree();
  const question = add(tree, "root", user("q1"));
  const first = add(tree, question.id, answer("a1"));
  const next = add(tree, first.id, user("q2"));
  add(tree, next.id, answer("a2"));
  return { tree, question, first, next };
}

test("messages follow each other", () => assert.equal(said(talk().tree), "q1 a1 q2 a2"));

test("an edited message is beside the old one, with what is behind each", () => {
  const { tree, next } = talk();
  const edited = add(tree, next.parent, user("q2b"));
  add(tree, edited.id, answer("a2b"));
  assert.equal(said(tree), "q1 a1 q2b a2b");
  assert.deepEqual(branch(tree, edited.id), { place: 2, count: 2 });
  turn(tree, edited.id, -1);
  assert.equal(said(tree), "q1 a1 q2 a2");
});

test("a regenerated answer is a branch, and leads on where it was left", () => {
  const { tree, question, first } = talk();
  const other = add(tree, question.id, answer("a1b"));
  assert.equal(said(tree), "q1 a1b");
  turn(tree, other.id, -1);
  assert.equal(said(tree), "q1 a1 q2 a2");
  turn(tree, first.id, -1);
  assert.equal(said(tree), "q1 a1 q2 a2");
});

test("the first message may have branches too", () => {
  const { tree } = talk();
  const other = add(tree, "root", user("q0"));
  assert.equal(said(tree), "q0");
  turn(tree, other.id, -1);
  assert.equal(said(tree), "q1 a1 q2 a2");
});

test("the path to a message is that of its own branch", () => {
  const { tree, first } = talk();
  add(tree, "root", user("q0"));
  assert.deepEqual(path(tree, first.id).map(({ content }) => content), ["q1", "a1"]);
});

test("a tree comes back from JSON as it was", () => {
  const { tree, question } = talk();
  add(tree, question.id, answer("a1b"));
  turn(tree, path(tree)[1].id, -1);
  const back = checkedTree(JSON.parse(JSON.stringify(tree)));
  assert.equal(said(back), "q1 a1 q2 a2");
  assert.equal(Object.keys(back.nodes).length, Object.keys(tree.nodes).length);
});

test("a damaged tree is refused", () => {
  const root = (...children) => ({ id: "root", children, chosen: "" });
  const node = { id: "m1", role: "user", content: "x", children: [], chosen: "" };
  for (const nodes of [null, {}, { root: root("m1") }, { root: root("m1"), m1: { ...node, role: "system" } }, { root: root("m1"), m1: { ...node, content: 1 } },
    { root: root("m1", "m1"), m1: node }, { root: root("m1"), m1: { ...node, children: ["m1"] } }, { root: root("__proto__") }])
    assert.throws(() => checkedTree({ nodes }), /messages/, JSON.stringify(nodes));
});
