// The messages of a conversation: a tree, as what is edited or regenerated stays beside what is new.

import { checkedTokens } from "./tokens.mjs";

// A message: { id, parent, role, content, ... }. `children` are the ids behind one, `chosen` is the one that is shown.
export const newTree = () => ({ nodes: { root: { id: "root", children: [], chosen: "" } }, count: 0 });

// Adds a message behind another, beside those that are there, and shows it.
export function add(tree, parent, message) {
  const id = `m${++tree.count}`;
  tree.nodes[id] = { ...message, id, parent, children: [], chosen: "" };
  tree.nodes[parent].children.push(id);
  tree.nodes[parent].chosen = id;
  return tree.nodes[id];
}

// The messages that are shown, from the first; with `last`, those to this one, whichever are shown.
export function path(tree, last) {
  const found = [];
  if (last !== undefined) {
    for (let id = last; id !== "root"; id = tree.nodes[id].parent) found.unshift(tree.nodes[id]);
  } else {
    for (let id = tree.nodes.root.chosen; id; id = tree.nodes[id].chosen) found.push(tree.nodes[id]);
  }
  return found;
}

// A message's place among the others behind the same one, from 1.
export function branch(tree, id) {
  const { children } = tree.nodes[tree.nodes[id].parent];
  return { place: children.indexOf(id) + 1, count: children.length };
}

// Shows the branch `step` places on, if there is one.
export function turn(tree, id, step) {
  const parent = tree.nodes[tree.nodes[id].parent];
  parent.chosen = parent.children[parent.children.indexOf(id) + step] ?? parent.chosen;
}

// The tree of what was stored or imported, with ids of its own. Throws an Error that says what is wrong with it.
export function checkedTree(given) {
  const nodes = new Map(Object.entries(given?.nodes ?? {}));
  const tree = newTree();
  const ids = new Map([["root", "root"]]); // theirs to ours; grows while we go through it
  if (!nodes.has("root")) throw new Error("messages: there is no root");
  for (const [theirs, ours] of ids) {
    for (const id of nodes.get(theirs)?.children ?? []) {
      const message = nodes.get(id);
      const isWell = ["user", "assistant", "tool"].includes(message?.role) && typeof message.content === "string";
      if (!isWell || ids.has(id)) throw new Error(`messages: ${JSON.stringify(id)} is not one message`);
      ids.set(id, add(tree, ours, checkedMessage(message)).id);
    }
  }
  for (const [theirs, ours] of ids) {
    const [node, chosen] = [tree.nodes[ours], ids.get(nodes.get(theirs)?.chosen)];
    if (node.children.includes(chosen)) node.chosen = chosen;
  }
  return tree;
}

const text = (value) => (typeof value === "string" ? value : "");

function checkedMessage({ role, content, reasoning, calls, error, finish, figures, tokens, call_id }) {
  if (role !== "assistant") return { role, content, call_id: text(call_id) };
  return {
    role, content, reasoning: text(reasoning), error: text(error), finish: text(finish),
    calls: (Array.isArray(calls) ? calls : []).map((call) => ({ id: text(call?.id), name: text(call?.name), arguments: text(call?.arguments) })),
    figures: Object.fromEntries(Object.entries(figures ?? {}).filter(([, value]) => Number.isFinite(value))),
    tokens: checkedTokens(tokens),
  };
}
