// The status page: polls /status and shows it.

import { element } from "./dom.mjs";
import { fleetOf, newHistory } from "./history.mjs";
import { modelView } from "./model_view.mjs";
import { polling } from "./poll.mjs";

const KEY = "manta.key";

const $ = (id) => document.getElementById(id);
const history = newHistory();
let isPaused = false;
let last = null; // the latest answer

// The API key stays in this tab's storage, if the browser has one for it.
function keptKey(value) {
  try {
    if (value !== undefined) sessionStorage.setItem(KEY, value);
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function tell(text, isBad = false) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").setAttribute("class", isBad ? "bad" : "");
}

const regions = () => $("models").querySelectorAll("[role=region]");

// Draws all anew, but who reads a table stays where they are in it.
function show() {
  const now_s = Date.now() / 1000;
  const [focused, scrolled] = [document.activeElement?.getAttribute?.("aria-label"), new Map()];
  for (const one of regions()) scrolled.set(one.getAttribute("aria-label"), one.scrollLeft);
  const names = [...new Set([...last.data.map(({ model }) => model), ...(last.fleet ?? []).map(({ model }) => model)])];
  const views = names.map((name) => modelView(name, last.data.find(({ model }) => model === name) ?? null, fleetOf(last, name), history.samples(name), now_s));
  $("models").replaceChildren(...(views.length ? views : [element("p", { class: "quiet" }, "No model has an engine now.")]));
  for (const one of regions()) {
    const label = one.getAttribute("aria-label");
    one.scrollLeft = scrolled.get(label) ?? 0;
    if (label === focused) one.focus();
  }
}

const poll = polling({
  fetch: (path, options) => fetch(path, options),
  headers: () => ($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {}),
  isHidden: () => document.hidden || isPaused,
  answer(found) {
    last = found;
    history.add(found, Date.now() / 1000);
    tell("Live");
    show();
  },
  failed(message, status) {
    if (status === 401) $("key").hidden = false;
    tell(status === 401 ? message : `${message}. ${last ? "What is shown is old. " : ""}Trying again`, true);
  },
});

$("key").value = keptKey();
$("key").hidden = !$("key").value;
$("key").onchange = () => { keptKey($("key").value); poll.now(); };
$("pause").onclick = () => {
  isPaused = !isPaused;
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  if (isPaused) { poll.stop(); tell("Paused"); } else poll.now();
};
document.addEventListener("visibilitychange", () => { if (document.hidden) poll.stop(); else if (!isPaused) poll.now(); });
poll.now();
