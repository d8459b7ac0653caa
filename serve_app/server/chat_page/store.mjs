// Conversations in the browser: at most so many, in so many characters; the one that was not changed for longest goes first.

import { checkedTree } from "./tree.mjs";

const PREFIX = "manta.chat.";
const MAX_COUNT = 200;
const MAX_LENGTH = 4_000_000; // browsers give an origin 5 million characters or more

// A conversation: { id, title, changed, tree }.
export function chatStore(storage, { maxCount = MAX_COUNT, maxLength = MAX_LENGTH } = {}) {
  const keys = () => Array.from({ length: storage.length }, (_, index) => storage.key(index)).filter((key) => key.startsWith(PREFIX));

  // Those that can be read, the one that was changed last first.
  function list() {
    return keys().map((key) => read(storage.getItem(key))).filter((chat) => chat !== null).sort((a, b) => b.changed - a.changed);
  }

  function save(chat) {
    const text = JSON.stringify(chat);
    if (text.length > maxLength) throw new Error("This conversation is too long to be kept in the browser: export it");
    const others = list().filter(({ id }) => id !== chat.id);
    let length = text.length;
    const kept = others.filter((other, index) => {
      length += JSON.stringify(other).length;
      return index < maxCount - 1 && length <= maxLength;
    });
    for (const { id } of others.slice(kept.length)) remove(id);
    for (;;) {
      try {
        return storage.setItem(PREFIX + chat.id, text);
      } catch (error) {
        const oldest = kept.pop();
        if (!oldest) throw new Error("The browser has no room for this conversation: export it", { cause: error });
        remove(oldest.id);
      }
    }
  }

  const load = (id) => read(storage.getItem(PREFIX + id));
  const remove = (id) => storage.removeItem(PREFIX + id);

  // Those with all words in their title or messages.
  function search(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    return list().filter((chat) => {
      const text = [chat.title, ...Object.values(chat.tree.nodes).map((node) => node.content ?? "")].join("\n").toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
  }

  return { list, load, save, remove, search };
}

export const exported = (chats) => JSON.stringify({ format: "manta-chats", version: 1, chats }, null, 1);

// The conversations of an exported file, under new ids. Throws an Error that says what is wrong.
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON");
  }
  if (file?.format !== "manta-chats" || !Array.isArray(file.chats)) throw new Error("The file is no export of this page");
  return file.chats.map((chat, index) => {
    try {
      return { ...checkedChat(chat), id: newId() };
    } catch (error) {
      throw new Error(`Conversation ${index + 1}: ${error.message}`);
    }
  });
}

export const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");

function read(text) {
  try {
    return checkedChat(JSON.parse(text));
  } catch {
    return null;
  }
}

function checkedChat(chat) {
  const { id, title, changed, tree } = chat ?? {};
  return {
    id: String(id), title: typeof title === "string" ? title.slice(0, 200) : "", changed: Number.isFinite(changed) ? changed : 0, tree: checkedTree(tree),
  };
}

// "localStorage" or "sessionStorage"; where the browser forbids it, what keeps nothing.
export function browserStorage(name) {
  try {
    const storage = globalThis[name];
    storage.setItem("manta.test", "");
    storage.removeItem("manta.test");
    return storage;
  } catch {
    return { length: 0, getItem: () => null, setItem() {}, removeItem() {} };
  }
}
