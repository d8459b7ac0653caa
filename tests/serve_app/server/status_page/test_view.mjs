// What is shown of a model, as elements and in words.

import assert from "node:assert/strict";
import { test } from "node:test";

import "./dom_stub.mjs";
import { all } from "../chat_page/dom_stub.mjs";

const { chart, niceTop, path } = await import("../../../../serve_app/server/status_page/chart.mjs");
const { modelView } = await import("../../../../serve_app/server/status_page/model_view.mjs");

const engine = {
  model: "m", num_running: 3, num_waiting: 1, num_waiting_tokens: 70, num_blocks: 10, num_free_blocks: 5, first_token_s: 0.25,
  max_model_len: 2048, num_prompt_tokens: 100, num_cached_tokens: 40,
};
const fleet = {
  model: "m", routing_policy: "cost", num_unplaced: 2, num_migrations: 3,
  replicas: [
    { replica_id: "one", state: "running", engine, step_age_s: 0, routed: { cached: 5, load: 2 } },
    { replica_id: "two", state: "starting", engine: null, step_age_s: 0, routed: {} },
  ],
  migrations: [{ at_s: 90, replica_id: "three", reason: "silent" }],
  autoscaling: { min_replicas: 1, max_replicas: 4, target_replicas: 2, wanted: { sequences: 1.5 }, events: [{ at_s: 70, before: 1, after: 2 }] },
};

test("replicas, routing, migrations and autoscaling are said in words", () => {
  const text = modelView("m", engine, fleet, [], 100).textContent;
  for (const part of ["1 running, 1 starting", "queue: 1 sequences, 70 tokens", "two", "had more of the prompt cached: 5", "had less to do: 2",
    "2 wait for a replica", "10 s ago: left three: silent", "Target 2, between 1 and 4", "sequences 1.5", "30 s ago: from 1 to 2 replicas", "40%", "50%"]) {
    assert.ok(text.includes(part), `${part} is missing in ${text}`);
  }
});

test("a model without an engine, and a server without a cluster, are shown", () => {
  assert.match(modelView("m", null, { ...fleet, replicas: [], autoscaling: null }, [], 100).textContent, /No replica is up/);
  assert.doesNotMatch(modelView("m", engine, null, [], 100).textContent, /Routing/);
});

test("a name from elsewhere never becomes markup", () => {
  const bad = '"><img src=x onerror=alert(1)>';
  const { html } = modelView(bad, engine, { ...fleet, replicas: [{ ...fleet.replicas[0], replica_id: bad, routed: { [bad]: 1 } }] }, [], 100);
  assert.ok(!html.includes("<img"));
  assert.ok(html.includes("&lt;img"));
});

test("a chart is an image with its text", () => {
  const samples = [0, 1, 2].map((at_s) => ({ at_s, value: 10 * at_s }));
  const svg = [...all(chart("Tokens per second", samples, [{ name: "", field: "value" }], String, 2))].find(({ tag }) => tag === "svg");
  assert.equal(svg.attributes.role, "img");
  assert.equal(svg.attributes["aria-label"], "Tokens per second: now 20; least 0 and most 20 in the last 5 minutes");
});

test("a line ends at the right edge now, and is broken where nothing came", () => {
  const samples = [0, 1, 100, 101].map((at_s) => ({ at_s, value: 5 }));
  const d = path(samples, "value", 10, 101);
  assert.equal(d.match(/M/g).length, 2);
  assert.match(d, /L300\.0 30\.0$/);
});

test("a scale ends at a round number", () => {
  assert.deepEqual([0, 1, 1.5, 3, 7, 12, 480].map(niceTop), [1, 1, 2, 5, 10, 20, 500]);
});
