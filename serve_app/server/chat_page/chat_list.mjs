// The conversations that the browser keeps: search, open, rename, delete, export and import.

import { button, element } from "./dom.mjs";
import { exported, imported } from "./store.mjs";

//   parts     the elements: list, search, exports, imports, file
//   act       open(id), renamed(id, title), removed(id), tell(text)
export function chatList(store, { list, search, exports, imports, file }, act) {
  let current = "";

  function show(id = current) {
    current = id;
    const chats = search.value.trim() ? store.search(search.value) : store.list();
    list.replaceChildren(...chats.map((chat) => {
      const title = chat.title || "Untitled";
      const small = (name, action) => button(name, action, { "aria-label": `${name}: ${title}` });
      return element("li", {},
        button(title, () => act.open(chat.id), { class: "open", title, "aria-current": chat.id === current && "true" }),
        small("Rename", () => rename(chat)), small("Export", () => download([chat])), small("Delete", () => remove(chat)));
    }));
  }
  function rename(chat) {
    const title = prompt("Title", chat.title)?.trim();
    if (!title) return;
    attempt(() => store.save({ ...chat, title }));
    act.renamed(chat.id, title);
  }
  function remove(chat) {
    if (!confirm(`Delete "${chat.title || "Untitled"}"?`)) return;
    store.remove(chat.id);
    act.removed(chat.id);
    show();
  }
  function attempt(action) {
    try {
      action();
    } catch (error) {
      act.tell(error.message);
    }
    show();
  }

  search.oninput = () => show();
  exports.onclick = () => download(store.list());
  imports.onclick = () => file.click();
  file.onchange = async () => {
    const text = await file.files[0]?.text();
    file.value = "";
    if (text !== undefined) attempt(() => imported(text).forEach((chat) => store.save(chat)));
  };
  return { show };
}

function download(chats) {
  const url = URL.createObjectURL(new Blob([exported(chats)], { type: "application/json" }));
  element("a", { href: url, download: "manta-chats.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
