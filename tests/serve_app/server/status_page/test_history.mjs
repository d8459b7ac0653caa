// What the page keeps of the last five minutes.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KEPT_S, newHistory } from "../../../../serve_app/server/status_page/history.mjs";

const engine = (generated, prompt = 0, cached = 0) => ({
  model: "m", num_running: 1, num_waiting: 2, num_blocks: 10, num_free_blocks: 4,
  num_generated_tokens: generated, num_prompt_tokens: prompt, num_cached_tokens: cached,
});
const answer = (...engines) => ({
  data: [engine(0)],
  fleet: [{ model: "m", autoscaling: null, replicas: engines.map((one, index) => ({ replica_id: `r${index}`, state: "running", engine: one })) }],
});

test("rates are those of the engines' counters", () => {
  const history = newHistory();
  for (let second = 0; second <= 10; second++) history.add(answer(engine(50 * second, 100 * second, 25 * second)), second);
  const last = history.samples("m").at(-1);
  assert.equal(last.tokens_s, 50);
  assert.equal(last.hit_rate, 0.25);
  assert.equal(last.in_use, 0.6);
});

test("a replica that dies, comes, or starts again makes no jump and no negative rate", () => {
  const history = newHistory();
  history.add(answer(engine(1000), engine(5000)), 0);
  history.add(answer(engine(1010), engine(5010)), 4);
  assert.equal(history.samples("m").at(-1).tokens_s, 5);
  history.add(answer(engine(1020)), 8); // one is gone
  assert.equal(history.samples("m").at(-1).tokens_s, 2.5);
  history.add(answer(engine(4), undefined, engine(9000)), 12); // the first has started again, another one is new
  assert.equal(history.samples("m").at(-1).tokens_s, 1);
});

test("what is older than five minutes is forgotten, also of a model without an engine", () => {
  const history = newHistory();
  for (let second = 0; second < 2 * KEPT_S; second++) history.add(answer(engine(second)), second);
  assert.equal(history.samples("m").length, KEPT_S);
  history.add({ data: [], fleet: [] }, 3 * KEPT_S);
  assert.deepEqual(history.samples("m"), []);
});

test("without a cluster the model's own counters do", () => {
  const history = newHistory();
  for (let second = 0; second < 5; second++) history.add({ data: [engine(7 * second)] }, second);
  assert.equal(history.samples("m").at(-1).tokens_s, 7);
});
