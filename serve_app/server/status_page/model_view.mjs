// One model: its charts, its replicas, what was routed, migrated and scaled.

import { chart } from "./chart.mjs";
import { element } from "./dom.mjs";

const REASONS = {
  cached: "had more of the prompt cached", load: "had less to do", session: "same session", only: "no other was up", policy: "routing policy",
};
const TARGETS = { sequences: "sequences", cache_use: "KV use", first_token_s: "time to first token" };
const SHOWN = 8; // events

export const count = (value) => (value >= 10000 ? `${Math.round(value / 1000)}k` : String(Math.round(value)));
export const percent = (value) => `${(100 * value).toFixed(value && value < 0.1 ? 1 : 0)}%`;
const rate = (value) => (value >= 10 ? count(value) : value.toFixed(1));

export function modelView(name, status, fleet, samples, now_s) {
  const replicas = fleet?.replicas ?? [];
  return element("section", { "aria-label": `Model ${name}` },
    element("h2", {}, name),
    summary(status, replicas),
    element("div", { class: "charts" },
      chart("Tokens per second", samples, [{ name: "", field: "tokens_s" }], rate, now_s),
      chart("Sequences", samples, [{ name: "running", field: "running" }, { name: "waiting", field: "waiting" }], count, now_s),
      chart("KV blocks in use", samples, [{ name: "", field: "in_use" }], percent, now_s, 1),
      chart("Prefix cache hit rate", samples, [{ name: "", field: "hit_rate" }], percent, now_s, 1),
      fleet && chart("Replicas", samples, [{ name: "running", field: "replicas" }, ...(fleet.autoscaling ? [{ name: "target", field: "target" }] : [])], count, now_s)),
    fleet && replicaTable(name, replicas),
    fleet && routing(name, fleet),
    fleet && migrations(fleet, now_s),
    fleet?.autoscaling ? autoscaling(fleet.autoscaling, now_s) : null);
}

function summary(status, replicas) {
  const phases = ["running", "starting", "draining", "unreachable"]
    .map((phase) => [replicas.filter(({ state }) => state === phase).length, phase]).filter(([number]) => number)
    .map(([number, phase]) => `${number} ${phase}`).join(", ");
  const parts = [phases && `Replicas: ${phases}`];
  if (status) {
    parts.push(`queue: ${count(status.num_waiting)} sequences, ${count(status.num_waiting_tokens)} tokens`);
    if (status.first_token_s) parts.push(`first token after ${status.first_token_s.toFixed(2)} s`);
    parts.push(`context ${count(status.max_model_len)} tokens`);
  }
  const text = parts.filter(Boolean).join(" · ");
  return element("p", { class: status ? "quiet" : "bad" }, status ? text : `No replica is up. ${text}`);
}

const cell = (label, text, kind = "") => element("td", { "data-label": label, ...(kind && { class: kind }) }, text);

function table(name, title, heads, rows) {
  return element("div", {}, element("h3", {}, title),
    element("div", { class: "table", tabindex: "0", role: "region", "aria-label": `${title} of ${name}` },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))), element("tbody", {}, ...rows))));
}

function replicaTable(name, replicas) {
  const heads = ["Replica", "State", "Running", "Waiting", "KV in use", "Prefix cache", "First token", "Last step"];
  const rows = replicas.map(({ replica_id, state, engine, step_age_s }) => element("tr", {},
    cell("Replica", replica_id, "name"),
    element("td", { "data-label": "State" }, element("span", { class: `phase ${state}` }, state)),
    ...(engine ? [
      cell("Running", count(engine.num_running)), cell("Waiting", count(engine.num_waiting)),
      cell("KV in use", percent(engine.num_blocks ? 1 - engine.num_free_blocks / engine.num_blocks : 0)),
      cell("Prefix cache", engine.num_prompt_tokens ? percent(engine.num_cached_tokens / engine.num_prompt_tokens) : "–"),
      cell("First token", engine.first_token_s ? `${engine.first_token_s.toFixed(2)} s` : "–"),
      cell("Last step", step_age_s ? `${step_age_s.toFixed(1)} s ago` : engine.num_running ? "now" : "idle"),
    ] : heads.slice(2).map((head) => cell(head, "–")))));
  return replicas.length ? table(name, "Replicas", heads, rows) : element("p", { class: "quiet" }, "No replica is known.");
}

function routing(name, { replicas, routing_policy, num_unplaced }) {
  const given = replicas.filter(({ routed }) => Object.keys(routed).length);
  const rows = given.map(({ replica_id, routed }) => element("tr", {},
    cell("Replica", replica_id, "name"),
    cell("Requests", count(Object.values(routed).reduce((sum, one) => sum + one, 0))),
    cell("Why", Object.entries(routed).map(([reason, number]) => `${REASONS[reason] ?? reason}: ${count(number)}`).join(", "), "wide")));
  const waiting = num_unplaced ? ` ${count(num_unplaced)} wait for a replica.` : "";
  const text = element("p", { class: "quiet" }, `Policy: ${routing_policy}.${waiting}${rows.length ? "" : " No request was routed yet."}`);
  const made = rows.length ? table(name, "Routing", ["Replica", "Requests", "Why"], rows) : element("div", {}, element("h3", {}, "Routing"));
  made.append(text);
  return made;
}

const ago = (at_s, now_s) => {
  const age_s = Math.max(0, now_s - at_s);
  return age_s < 90 ? `${Math.round(age_s)} s ago` : age_s < 5400 ? `${Math.round(age_s / 60)} min ago` : `${Math.round(age_s / 3600)} h ago`;
};

function events(title, lines, more) {
  return element("div", {}, element("h3", {}, title),
    ...more.map((text) => element("p", { class: "quiet" }, text)),
    element("ul", { class: "events" }, ...lines.map((line) => element("li", {}, line))));
}

function migrations({ num_migrations, migrations: found }, now_s) {
  const lines = found.slice(-SHOWN).reverse().map(({ at_s, replica_id, reason }) => `${ago(at_s, now_s)}: left ${replica_id}: ${reason}`);
  return events("Migrations", lines, [num_migrations ? `Requests that went on on another replica: ${count(num_migrations)}.` : "No request had to leave its replica."]);
}

function autoscaling({ min_replicas, max_replicas, target_replicas, wanted, events: found }, now_s) {
  const asked = Object.entries(wanted).map(([name, value]) => `${TARGETS[name] ?? name} ${value.toFixed(1)}`).join(", ");
  const lines = found.slice(-SHOWN).reverse().map(({ at_s, before, after }) => `${ago(at_s, now_s)}: from ${before} to ${after} replicas`);
  return events("Autoscaling", lines, [`Target ${target_replicas ?? "unknown"}, between ${min_replicas} and ${max_replicas}. Replicas that each target asks for now: ${asked || "none"}.`]);
}
