// The chat page: joins its parts, and holds the conversation that is open.

import { chatList } from "./chat_list.mjs";
import { button, element } from "./dom.mjs";
import { messageView } from "./message_view.mjs";
import { newAnswer, requestMessages, takeEvent } from "./request.mjs";
import { settingsPanel } from "./settings.mjs";
import { browserStorage, chatStore, newId } from "./store.mjs";
import { answerEvents } from "./stream.mjs";
import { add, branch, newTree, path, turn } from "./tree.mjs";

const PROMPTS = [
  "Explain paged attention with a small example.",
  "Write a Python function that merges two sorted lists.",
  "Compare three ways to brew coffee in a table.",
];
const SAID = 2000; // characters of an answer that screen readers get

const $ = (id) => document.getElementById(id);
const local = browserStorage("localStorage");
const session = browserStorage("sessionStorage"); // the API key's: it is gone with the tab
const store = chatStore(local);
const settings = settingsPanel($("fields"), { preset: $("preset"), keep: $("keep-preset"), drop: $("drop-preset") }, local);
const newChat = () => ({ id: newId(), title: "", changed: 0, tree: newTree() });

let chat = newChat();
const deleted = new Set(); // ids that an answer which still ends must not keep again
let running = null; // { abort: AbortController, message, view } of the answer that is being written

const tell = (text) => { $("notice").textContent = text; };
const headers = () => ({ "Content-Type": "application/json", ...($("key").value && { Authorization: `Bearer ${$("key").value}` }) });

async function loadModels() {
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    $("key").hidden = answer.status !== 401 && !$("key").value;
    const said = await answer.json();
    if (!answer.ok) return tell(said.error.message);
    $("model").replaceChildren(...said.data.map(({ id }) => new Option(id, id, false, id === local.getItem("manta.model"))));
    tell("");
  } catch (error) {
    tell(`The models cannot be listed: ${error.message}`);
  }
}

function show() {
  const messages = path(chat.tree);
  const views = messages.map((message, index) => {
    const isWriting = running?.message === message;
    const view = messageView(message, {
      place: branch(chat.tree, message.id), isWriting, isBusy: running !== null, isLast: index === messages.length - 1, act: actions(message),
    });
    if (isWriting) running.view = view;
    return view.element;
  });
  const stays = isAtEnd();
  $("chat").replaceChildren(...(views.length ? views : [emptyState()]));
  if (stays) scrollToEnd();
  $("send").textContent = running ? "Stop" : "Send";
  list.show(chat.id);
}

function emptyState() {
  return element("section", { class: "empty" },
    element("h2", {}, "Chat with the models of this server"),
    element("p", {}, `Conversations stay in this browser. The server's API is OpenAI's, at ${new URL("v1", location)}`),
    ...PROMPTS.map((text) => button(text, () => send(text))));
}

function actions(message) {
  const { tree } = chat;
  return {
    edit: (content) => content.trim() && answerTo(() => add(tree, message.parent, { role: "user", content })),
    regenerate: () => answerTo(() => tree.nodes[message.parent]),
    // what has failed before it said anything is not worth a branch
    retry: () => (message.content || message.calls.length ? answerTo(() => tree.nodes[message.parent]) : write(Object.assign(message, newAnswer()), path(tree, message.parent))),
    proceed: () => write(message, path(tree, message.id), { continue_final_message: true }),
    turn(step) { turn(tree, message.id, step); keep(chat); show(); },
    reply: (results) => answerTo(() => results.reduce(
      (last, content, index) => add(tree, last.id, { role: "tool", content, call_id: message.calls[index].id }), message)),
  };
}

function send(text) {
  const content = text.trim();
  if (!content || running || !settingsAreWell()) return;
  $("text").value = "";
  const last = path(chat.tree).at(-1)?.id ?? "root";
  answerTo(() => add(chat.tree, last, { role: "user", content }));
}

// Writes an answer behind the message that `asking` gives.
function answerTo(asking) {
  if (running || !settingsAreWell()) return;
  const { id } = asking();
  write(add(chat.tree, id, newAnswer()), path(chat.tree, id));
}

function settingsAreWell() {
  const [fault] = Object.entries(settings.asked().faults);
  if (!fault) return true;
  toggle("settings", true);
  $("fields").elements[fault[0]].focus();
  tell(fault.join(" "));
  return false;
}

// Asks for an answer to `messages`, and writes it into `message`.
async function write(message, messages, more = {}) {
  if (running || !settingsAreWell()) return;
  const [own, run] = [chat, { abort: new AbortController(), message, view: null }];
  const { fields } = settings.asked();
  // an answer has the probabilities of all its tokens, or of none
  if (!fields.logprobs || (message.content && !message.tokens?.length)) {
    message.tokens = [];
    fields.logprobs = fields.top_logprobs = undefined;
  }
  const asked = {
    model: $("model").value, messages: requestMessages(messages, settings.values().system), ...fields, ...more, stream: true,
    stream_options: { include_usage: true },
  };
  running = run;
  Object.assign(message, { error: "", finish: "", figures: {} });
  own.title ||= path(own.tree)[0].content.replace(/\s+/g, " ").slice(0, 60);
  keep(own);
  show();
  scrollToEnd();
  focusText();
  $("said").textContent = "The answer is being written";
  const began = performance.now();
  const draw = drawing(() => run.view?.update());
  let first;
  try {
    for await (const found of answerEvents(asked, run.abort.signal, { headers, notice: tell })) {
      for (const event of found) if (takeEvent(message, event)) first ??= (performance.now() - began) / 1000;
      if (running === run) draw();
    }
  } catch (error) {
    if (!run.abort.signal.aborted) message.error = error.message;
  }
  message.calls = message.calls.filter(Boolean);
  Object.assign(message.figures, { seconds: (performance.now() - began) / 1000, ...(first !== undefined && { first }) });
  if (running === run) tell("");
  keep(own);
  if (running !== run) return list.show();
  running = null;
  $("said").textContent = message.error || message.content.slice(0, SAID);
  show();
  focusText();
}

// Draws at most once a frame, and for at most a fifth of the time: a giant block must not hang the page.
function drawing(update) {
  let [isDue, next] = [false, 0];
  const draw = () => {
    isDue = false;
    const [began, stays] = [performance.now(), isAtEnd()];
    update();
    if (stays) scrollToEnd();
    next = performance.now() + 4 * (performance.now() - began);
  };
  return () => {
    if (isDue) return;
    isDue = true;
    setTimeout(() => requestAnimationFrame(draw), next - performance.now());
  };
}

// Buttons that were pressed are gone; who is elsewhere stays there.
function focusText() {
  if (document.activeElement === document.body) $("text").focus();
}

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("chat");
  return scrollHeight - scrollTop - clientHeight < 80;
}

const scrollToEnd = () => { $("chat").scrollTop = $("chat").scrollHeight; };

function keep(one) {
  if (deleted.has(one.id)) return;
  one.changed = Date.now();
  try {
    store.save(one);
  } catch (error) {
    tell(error.message);
  }
}

const stop = () => running?.abort.abort();

function open(one) {
  stop();
  running = null;
  chat = one;
  tell("");
  show();
  scrollToEnd();
  $("text").focus();
}

function toggle(id, isShown = $(id).hidden) {
  $(id).hidden = !isShown;
  $(`show-${id}`).setAttribute("aria-expanded", String(isShown));
}

const list = chatList(store, { list: $("list"), search: $("search"), exports: $("export"), imports: $("import"), file: $("file") }, {
  open(id) { if (id !== chat.id) open(store.load(id) ?? newChat()); },
  tell,
  renamed(id, title) { if (id === chat.id) chat.title = title; },
  removed(id) { deleted.add(id); if (id === chat.id) open(newChat()); },
});

$("form").onsubmit = (event) => {
  event.preventDefault();
  if (running) stop();
  else send($("text").value);
};
$("text").onkeydown = (event) => {
  // Enter of an input method is not ours
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send($("text").value);
};
document.onkeydown = (event) => {
  if (event.key === "Escape") stop();
  if (event.key?.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    open(newChat());
  }
};
for (const id of ["chats", "settings"]) $(`show-${id}`).onclick = () => toggle(id);
$("new").onclick = () => open(newChat());
$("model").onchange = () => local.setItem("manta.model", $("model").value);
$("key").onchange = () => {
  session.setItem("manta.key", $("key").value);
  loadModels();
};
addEventListener("pagehide", () => { if (running) keep(chat); });

$("key").value = session.getItem("manta.key") ?? "";
show();
loadModels();
