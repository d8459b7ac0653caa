// The chat page's stand-in for a DOM, with what SVG needs.

import "../chat_page/dom_stub.mjs";

document.createElementNS = (namespace, tag) => document.createElement(tag);
