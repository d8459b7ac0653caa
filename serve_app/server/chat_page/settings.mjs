// The side panel: settings of requests, kept in the browser, and presets of them.

import { element } from "./dom.mjs";
import { requestFields } from "./request.mjs";

const KEY = "manta.settings";
const PRESETS_KEY = "manta.presets";
const NAMES = ["system", "temperature", "top_p", "max_tokens", "seed", "schema", "tools", "logprobs"];
const propertyOf = (field) => (field.type === "checkbox" ? "checked" : "value");
const PRESETS = {
  "The model's own": { temperature: "", top_p: "" },
  Precise: { temperature: "0", top_p: "" },
  Creative: { temperature: "1", top_p: "0.95" },
};

// { values(), asked() }: what the form says, and what requestFields makes of it.
export function settingsPanel(form, { preset, keep, drop }, storage) {
  const presets = stored(PRESETS_KEY);
  const values = () => Object.fromEntries(NAMES.map((name) => [name, form.elements[name][propertyOf(form.elements[name])]]));

  function fill(from) {
    for (const name of NAMES) {
      const field = form.elements[name];
      const property = propertyOf(field);
      if (typeof from[name] === typeof field[property]) field[property] = from[name];
    }
    changed();
  }
  function changed() {
    keepIn(KEY, values());
    const { faults } = requestFields(values());
    for (const name of NAMES) {
      const field = form.elements[name];
      const label = field.closest("label");
      label.querySelector(".error")?.remove();
      field.setAttribute("aria-invalid", String(name in faults));
      if (name in faults) label.append(element("span", { class: "error" }, faults[name]));
    }
  }
  function showPresets(chosen) {
    const names = ["", ...Object.keys({ ...PRESETS, ...presets })];
    preset.replaceChildren(...names.map((name) => new Option(name || "Choose", name, false, name === chosen)));
    drop.disabled = !(chosen in presets);
  }
  function savePresets(chosen) {
    keepIn(PRESETS_KEY, presets);
    showPresets(chosen);
  }
  function keepIn(key, value) {
    try {
      storage.setItem(key, JSON.stringify(value));
    } catch {} // full
  }
  function stored(key) {
    try {
      const value = JSON.parse(storage.getItem(key));
      return typeof value === "object" && value !== null ? value : {};
    } catch {
      return {};
    }
  }

  form.onsubmit = (event) => event.preventDefault();
  form.oninput = (event) => { if (event.target !== preset) changed(); };
  preset.onchange = () => {
    const chosen = { ...PRESETS, ...presets }[preset.value];
    if (chosen) fill({ ...values(), ...chosen });
    drop.disabled = !(preset.value in presets);
  };
  keep.onclick = () => {
    const name = prompt("Name of the preset", preset.value)?.trim();
    if (!name) return;
    presets[name] = values();
    savePresets(name);
  };
  drop.onclick = () => {
    delete presets[preset.value];
    savePresets("");
  };
  fill(stored(KEY));
  showPresets("");
  return { values, asked: () => requestFields(values()) };
}
