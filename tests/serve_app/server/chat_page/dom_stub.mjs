// As much of a DOM as the page needs. Its text can be written out as HTML, which shows what became markup.

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

function textNode(data) {
  return {
    data, parent: null,
    get length() { return this.data.length; },
    get html() { return escape(this.data); },
    get textContent() { return this.data; },
    appendData(more) { this.data += more; },
    remove,
  };
}

function remove() {
  this.parent?.children.splice(this.parent.children.indexOf(this), 1);
  this.parent = null;
}

function elementNode(tag) {
  return {
    tag, parent: null, children: [], attributes: {}, listeners: {},
    setAttribute(name, value) { this.attributes[name] = String(value); },
    removeAttribute(name) { delete this.attributes[name]; },
    addEventListener(name, listener) { this.listeners[name] = listener; },
    append(...nodes) {
      for (const given of nodes) {
        const node = typeof given === "object" ? given : textNode(String(given));
        if (node.parent) remove.call(node);
        node.parent = this;
        this.children.push(node);
      }
    },
    replaceChildren(...nodes) {
      for (const child of this.children) child.parent = null;
      this.children = [];
      this.append(...nodes);
    },
    remove,
    get parentNode() { return this.parent; },
    closest: () => null, focus() {}, getBoundingClientRect: () => ({ bottom: 0 }), style: {},
    get childNodes() { return this.children; },
    get lastChild() { return this.children.at(-1); },
    get textContent() { return this.children.map((child) => child.textContent).join(""); },
    set textContent(text) { this.replaceChildren(text); },
    get html() {
      const attributes = Object.entries(this.attributes).map(([name, value]) => ` ${name}="${escape(value)}"`).join("");
      return `<${tag}${attributes}>${this.children.map((child) => child.html).join("")}</${tag}>`;
    },
  };
}

export function* all(node) {
  yield node;
  for (const child of node.children ?? []) yield* all(child);
}

export const newElement = () => elementNode("div");
globalThis.document = { createElement: elementNode, createTextNode: textNode };
