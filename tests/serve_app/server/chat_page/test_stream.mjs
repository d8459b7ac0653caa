// The events of an answer, however the bytes come, and what is asked again after a lost line.

import assert from "node:assert/strict";
import { test } from "node:test";

import { answerEvents, Refused } from "../../../../serve_app/server/chat_page/stream.mjs";

const event = (number, content) => `id: s1.${number}\ndata: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
const DONE = "id: s1.99\ndata: [DONE]\n\n";

function streamed(text, size = text.length) {
  const bytes = new TextEncoder().encode(text);
  return new Response(new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
      controller.close();
    },
  }));
}

// Asks with these answers of a server, the last of which is given again and again. Returns what was said, and the requests.
async function ask(answers, stopping = new AbortController()) {
  const requests = [];
  let said = "";
  globalThis.fetch = async (path, options) => {
    requests.push({ path, ...options });
    const answer = answers[Math.min(requests.length, answers.length) - 1];
    if (answer instanceof Error) throw answer;
    return answer();
  };
  const notices = [];
  let error = null;
  try {
    for await (const found of answerEvents({ messages: [] }, stopping.signal, { headers: () => ({ A: "b" }), notice: (text) => notices.push(text) })) {
      for (const { choices } of found) said += choices[0].delta.content;
      if (said.includes("stop")) stopping.abort();
    }
  } catch (caught) {
    error = caught;
  }
  return { said, requests, notices, error };
}

test("events are the same in pieces of any size", async () => {
  for (const size of [1, 2, 3, 7, 50, 1000]) {
    const { said, requests, error } = await ask([() => streamed(`retry: 500\n\n: hello\n\n${event(1, "é漢😀")}${event(2, "b\n")}${DONE}`, size)]);
    assert.deepEqual([said, requests.length, error], ["é漢😀b\n", 1, null]);
  }
});

test("a lost line is taken up behind the last event, under the same key", async () => {
  const half = event(2, "lost").slice(0, -9);
  const { said, requests, notices } = await ask([() => streamed(event(1, "a") + half), new TypeError("no line"), () => streamed(event(2, "b") + DONE)]);
  assert.equal(said, "ab");
  assert.deepEqual(requests.map(({ headers }) => headers["Last-Event-ID"]), [undefined, "s1.1", "s1.1"]);
  assert.equal(new Set(requests.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
  assert.ok(requests.every(({ headers, body }) => headers.A === "b" && body === '{"messages":[]}'));
  assert.match(notices.find(Boolean), /lost/);
  assert.equal(notices.at(-1), "");
});

test("204 says that nothing is behind the last event", async () => {
  const { said, requests, error } = await ask([() => streamed(event(1, "a")), () => new Response(null, { status: 204 })]);
  assert.deepEqual([said, requests.length, error], ["a", 2, null]);
});

test("a line that never came is not asked for again", async () => {
  const { error, requests } = await ask([new TypeError("no line")]);
  assert.deepEqual([error.message, requests.length], ["no line", 1]);
});

test("what the server says is wrong is said once", async () => {
  const body = JSON.stringify({ error: { message: "max_tokens: must be at most 5" } });
  const first = await ask([() => new Response(body, { status: 400 })]);
  assert.ok(first.error instanceof Refused && first.error.message === "max_tokens: must be at most 5");
  const later = await ask([() => streamed(`${event(1, "a")}data: ${body}\n\n${DONE}`)]);
  assert.deepEqual([later.said, later.error.message, later.requests.length], ["a", "max_tokens: must be at most 5", 1]);
});

test("a proxy's page is named by its status", async () => {
  const { error } = await ask([() => new Response("<html>", { status: 502, statusText: "Bad Gateway" })]);
  assert.equal(error.message, "The server answered 502 Bad Gateway");
});

test("what is stopped is ended at the server", async () => {
  const { requests } = await ask([() => streamed(event(1, "stop") + event(2, "more"), 1)]);
  assert.deepEqual([requests[1].path, requests[1].method], ["v1/streams/s1", "DELETE"]);
});
