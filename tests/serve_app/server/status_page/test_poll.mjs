// When the server is asked.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { polling } from "../../../../serve_app/server/status_page/poll.mjs";

const settled = async () => { for (let turn = 0; turn < 20; turn++) await Promise.resolve(); };

function asking() {
  const seen = { asked: 0, answers: [], faults: [], isHidden: false, key: "", fails: null };
  const poll = polling({
    async fetch(path, { headers }) {
      seen.asked++;
      seen.headers = headers;
      if (seen.fails instanceof Error) throw seen.fails;
      return seen.fails ? Response.json({ error: { message: "no valid API key" } }, { status: seen.fails }) : { ok: true, json: async () => ({ number: seen.asked }) };
    },
    headers: () => (seen.key ? { Authorization: `Bearer ${seen.key}` } : {}),
    isHidden: () => seen.isHidden,
    answer: ({ number }) => seen.answers.push(number),
    failed: (message, status) => seen.faults.push([message, status]),
  });
  return { seen, poll };
}

async function pass(ms) {
  mock.timers.tick(ms);
  await settled();
}

test("polling", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());

  await t.test("asks each second, for JSON", async () => {
    const { seen, poll } = asking();
    poll.now();
    await settled();
    for (let second = 0; second < 3; second++) await pass(1000);
    assert.deepEqual(seen.answers, [1, 2, 3, 4]);
    assert.equal(seen.headers.Accept, "application/json");
    poll.stop();
    await pass(5000);
    assert.equal(seen.asked, 4);
  });

  await t.test("asks nothing while the tab is hidden, and at once when it is shown", async () => {
    const { seen, poll } = asking();
    poll.now();
    await settled();
    seen.isHidden = true;
    for (let second = 0; second < 5; second++) await pass(1000);
    assert.equal(seen.asked, 1);
    seen.isHidden = false;
    poll.now();
    await settled();
    assert.equal(seen.asked, 2);
    poll.stop();
  });

  await t.test("a server that is gone is said, asked more rarely, and shown again when it is back", async () => {
    const { seen, poll } = asking();
    seen.fails = new TypeError("fetch failed");
    poll.now();
    await settled();
    for (let second = 0; second < 20; second++) await pass(1000);
    assert.deepEqual(seen.faults[0], ["The server does not answer", undefined]);
    assert.ok(seen.asked >= 4 && seen.asked <= 8, String(seen.asked));
    seen.fails = null;
    for (let second = 0; second < 7; second++) await pass(1000);
    assert.ok(seen.answers.length >= 2);
    poll.stop();
  });

  await t.test("what the server says of a missing key is passed on, and a key is sent", async () => {
    const { seen, poll } = asking();
    seen.fails = 401;
    poll.now();
    await new Promise((done) => setImmediate(done));
    await settled();
    assert.deepEqual(seen.faults, [["no valid API key", 401]]);
    Object.assign(seen, { fails: null, key: "a" });
    poll.now();
    await settled();
    assert.equal(seen.headers.Authorization, "Bearer a");
    poll.stop();
  });
});
