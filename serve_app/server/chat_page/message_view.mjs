// One message on the page: what it says, what belongs to it folded, and what one can do with it.

import { button, copyButton, element } from "./dom.mjs";
import { heatMap } from "./heat_map.mjs";
import { markdownView } from "./render.mjs";
import { figuresText } from "./request.mjs";

const bodies = new WeakMap(); // by message
const unfolded = new WeakSet(); // messages whose reasoning is open
const heated = new WeakSet(); // messages whose tokens are shown with their probabilities

// { element, update() }, which shows what the message has got since.
//   place     { place, count } among its branches
//   isWriting, isBusy   this answer, or any, is being written
//   isLast    nothing is behind it
//   act       edit(text), retry(), regenerate(), proceed(), turn(step), reply(results)
export function messageView(message, { place, isWriting, isBusy, isLast, act }) {
  const { body, draw } = bodyOf(message);
  const label = { user: "You", assistant: "Answer", tool: "Result of a tool" }[message.role];
  const made = element("article", { class: `message ${message.role}`, "aria-label": label, "aria-busy": String(isWriting) });
  if (message.role !== "assistant") {
    made.append(body);
    if (!isBusy) made.append(actions());
    return { element: made, update() {} };
  }

  const reasoning = grownText();
  const folded = element("details", { hidden: true, open: unfolded.has(message), ontoggle: () => unfolded[folded.open ? "add" : "delete"](message) },
    element("summary", {}, "Reasoning"), reasoning.element);
  const calls = element("div");
  const hasTokens = message.tokens?.length !== 0; // or had too many
  const heat = !isWriting && hasTokens && heated.has(message) ? heatMap(message.tokens) : null;
  made.append(folded, heat ?? body, calls);

  function update() {
    folded.hidden = !message.reasoning;
    reasoning.show(message.reasoning);
    draw();
    if (message.calls.length) calls.replaceChildren(...message.calls.filter(Boolean).map(callElement));
  }
  update();
  if (isWriting) made.append(element("div", { class: "typing" }));
  else {
    if (isLast && !isBusy && message.calls.length) made.append(replyForm(message.calls, act.reply));
    if (message.error) made.append(element("p", { class: "error", role: "alert" }, message.error, " ", !isBusy && button("Retry", act.retry)));
    const figures = figuresText(message.figures);
    if (figures) made.append(element("div", { class: "figures" }, figures));
    if (!isBusy) made.append(actions());
  }
  return { element: made, update };

  function actions() {
    const isAnswer = message.role === "assistant";
    const canProceed = isAnswer && isLast && message.content && !message.calls.length && message.finish !== "stop";
    return element("div", { class: "actions" },
      ...(place.count > 1 ? [
        button("‹", () => act.turn(-1), { "aria-label": "Earlier branch", disabled: place.place === 1 }),
        element("span", {}, `${place.place} / ${place.count}`),
        button("›", () => act.turn(1), { "aria-label": "Later branch", disabled: place.place === place.count }),
      ] : []),
      copyButton("Copy", () => message.content),
      isAnswer && hasTokens && heatButton(),
      message.role === "user" && button("Edit", edit),
      isAnswer && button("Regenerate", act.regenerate),
      canProceed && button("Continue", act.proceed));
  }

  function heatButton() {
    let shown = heat;
    const made = button("Token probabilities", () => {
      const next = shown ? null : heatMap(message.tokens);
      (shown ?? body).replaceWith(next ?? body);
      shown = next;
      heated[shown ? "add" : "delete"](message);
      made.setAttribute("aria-pressed", String(shown !== null));
    }, { "aria-pressed": String(shown !== null) });
    return made;
  }

  function edit() {
    const text = element("textarea", { rows: String(Math.min(12, message.content.split("\n").length + 1)), "aria-label": "Edited message" });
    text.value = message.content;
    const row = element("div", { class: "row" }, button("Send", () => act.edit(text.value)), button("Cancel", () => form.replaceWith(body)));
    const form = element("div", { class: "edit" }, text, row);
    body.replaceWith(form);
    text.focus();
  }
}

// A message's content, and what draws that which has come: the same whenever it is shown.
function bodyOf(message) {
  if (bodies.has(message)) return bodies.get(message);
  const isAnswer = message.role === "assistant";
  const body = element("div", { class: "body", dir: !isAnswer && "auto" }, !isAnswer && message.content);
  const view = markdownView(body);
  let shown = 0; // characters of the content
  function draw() {
    if (message.content.length > shown) view.append(message.content.slice(shown));
    shown = message.content.length;
  }
  bodies.set(message, { body, draw });
  return bodies.get(message);
}

// Text that only grows: what is there is not drawn again.
function grownText() {
  const text = document.createTextNode("");
  return { element: element("div", { dir: "auto" }, text), show: (whole) => text.appendData(whole.slice(text.length)) };
}

function callElement({ name, arguments: text }) {
  return element("details", {}, element("summary", {}, `Call of ${name}`), element("pre", { tabindex: "0" }, indented(text)));
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not whole yet
  }
}

function replyForm(calls, reply) {
  const fields = calls.map(({ name }) => element("textarea", { rows: "2", "aria-label": `Result of ${name}`, placeholder: `Result of ${name}` }));
  return element("div", { class: "edit" }, ...fields, element("div", {}, button("Send results", () => reply(fields.map((field) => field.value)))));
}
