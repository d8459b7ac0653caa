// Requests of settings and messages, and answers of events.

import assert from "node:assert/strict";
import { test } from "node:test";

import { figuresText, newAnswer, requestFields, requestMessages, takeEvent } from "../../../../serve_app/server/chat_page/request.mjs";

test("settings that are left out are the server's", () => assert.deepEqual(requestFields({ temperature: " ", schema: "" }), { fields: {}, faults: {} }));

test("settings become fields", () => {
  const tool = { type: "function", function: { name: "f", parameters: {} } };
  const { fields, faults } = requestFields({ temperature: "0.5", max_tokens: "9", seed: "0", schema: '{"type":"object"}', tools: JSON.stringify([tool, tool.function]) });
  assert.deepEqual(faults, {});
  assert.deepEqual([fields.temperature, fields.max_tokens, fields.seed], [0.5, 9, 0]);
  assert.deepEqual(fields.response_format.json_schema.schema, { type: "object" });
  assert.deepEqual(fields.tools, [tool, tool]);
});

test("what is wrong with settings is said by name", () => {
  const { fields, faults } = requestFields({ top_p: "much", schema: "{", tools: '[{"a":1}]' });
  assert.deepEqual(fields, {});
  assert.deepEqual(Object.keys(faults), ["top_p", "schema", "tools"]);
  assert.match(faults.schema, /not JSON/);
  assert.ok(requestFields({ schema: "[]" }).faults.schema && requestFields({ tools: "[null]" }).faults.tools);
});

test("messages go out with calls and results, without answers that said nothing", () => {
  const call = { id: "c1", name: "f", arguments: "{}" };
  const messages = [{ role: "user", content: "q" }, { ...newAnswer(), error: "x" }, { ...newAnswer(), calls: [call] }, { role: "tool", content: "7", call_id: "c1" }];
  assert.deepEqual(requestMessages(messages, "be brief"), [
    { role: "system", content: "be brief" }, { role: "user", content: "q" },
    { role: "assistant", content: null, tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }] },
    { role: "tool", content: "7", tool_call_id: "c1" },
  ]);
});

test("events make an answer", () => {
  const answer = newAnswer();
  const delta = (delta, finish_reason = null) => takeEvent(answer, { choices: [{ delta, finish_reason }] });
  assert.equal(delta({ role: "assistant", content: "" }), false);
  assert.equal(delta({ reasoning: "hm" }), true);
  delta({ reasoning_content: "m" });
  delta({ content: "a" });
  delta({ tool_calls: [{ index: 0, id: "c1", function: { name: "f", arguments: '{"a"' } }] });
  delta({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }] }, "tool_calls");
  takeEvent(answer, { choices: [], usage: { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 8 }, migrations: 1 } });
  assert.deepEqual([answer.content, answer.reasoning, answer.finish], ["a", "hmm", "tool_calls"]);
  assert.deepEqual(answer.calls, [{ id: "c1", name: "f", arguments: '{"a":1}' }]);
  assert.equal(figuresText({ ...answer.figures, seconds: 2, first: 0.5 }),
    "4 tokens · 2.0 tokens/s · first after 0.50 s · 8 of 9 prompt tokens cached · moved to another replica once, nothing lost");
});
