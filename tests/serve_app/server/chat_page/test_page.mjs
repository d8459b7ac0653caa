// The page as a whole, in a stand-in for a browser: what people press, and what is asked of the server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { all } from "./dom_stub.mjs";
import { $, openPage, press, shown, until } from "./page_stub.mjs";

const asked = []; // bodies of requests for answers
const keys = []; // what they had as Authorization
let answers = []; // the next ones: lists of events, or a status with an error
let ends = null; // of an answer that does not end by itself

const delta = (delta, finish_reason = null) => ({ choices: [{ delta, finish_reason }] });
const says = (content, finish = "stop") => [delta({ content }), delta({}, finish), { choices: [], usage: { prompt_tokens: 5, completion_tokens: 3 } }];

globalThis.fetch = async (path, { method = "GET", headers, body, signal }) => {
  if (path === "v1/models") return Response.json({ data: [{ id: "toy" }] });
  if (method === "DELETE") return new Response("{}");
  asked.push(JSON.parse(body));
  keys.push(headers.Authorization);
  const answer = answers.shift();
  if (answer.status) return Response.json({ error: { message: answer.message } }, answer);
  const lines = answer.map((event, index) => `id: s.${index}\ndata: ${JSON.stringify(event)}\n\n`).join("");
  return new Response(new ReadableStream({
    async start(controller) {
      controller.enqueue(new TextEncoder().encode(lines));
      if (ends) {
        await new Promise((stop) => signal.addEventListener("abort", stop));
        return controller.error(new DOMException("stopped", "AbortError"));
      }
      controller.enqueue(new TextEncoder().encode("id: s.end\ndata: [DONE]\n\n"));
      controller.close();
    },
  }));
};

const isIdle = () => $("send").textContent === "Send";
const wanted = () => asked.at(-1).messages.map(({ role, content }) => `${role}: ${content}`).join(", ");

async function ask(text, ...events) {
  answers = events;
  $("text").value = text;
  $("text").onkeydown({ key: "Enter", preventDefault() {} });
  await until(isIdle);
}

async function pressed(label, ...events) {
  answers = events;
  press(label);
  await until(isIdle);
}

test("people talk with a model on the page", async (t) => {
  await openPage();
  await until(() => $("model").children.length);

  await t.test("an empty page says what it is, and offers prompts", () => {
    assert.match(shown(), /Chat with the models/);
    assert.equal([...all($("chat"))].filter(({ tag }) => tag === "button").length, 3);
  });
  await t.test("an empty page says where the API is", () => assert.match(shown(), / at http:\/\/test\/behind\/v1E/));
  await t.test("a question gets its answer, as markdown, with figures", async () => {
    await ask("q1", says("**a1**"));
    assert.match($("chat").html, /<strong>a1<\/strong>/);
    assert.match(shown(), /3 tokens · .* tokens\/s · first after/);
    assert.deepEqual([wanted(), asked.at(-1).stream_options], ["user: q1", { include_usage: true }]);
    assert.equal($("said").textContent, "**a1**");
  });
  await t.test("a line break is no question", () => {
    const before = asked.length;
    $("text").value = "q";
    $("text").onkeydown({ key: "Enter", shiftKey: true });
    $("text").onkeydown({ key: "Enter", isComposing: true });
    assert.equal(asked.length, before);
  });
  await t.test("an answer is regenerated beside the old one", async () => {
    await pressed("Regenerate", says("a1b"));
    assert.equal(wanted(), "user: q1");
    assert.match(shown(), /2 \/ 2/);
    press("‹");
    assert.match(shown(), /a1[^b].*1 \/ 2/s);
  });
  await t.test("a question is edited beside the old one", async () => {
    press("Edit");
    [...all($("chat"))].find(({ tag }) => tag === "textarea").value = "q1 edited";
    answers = [says("a2")];
    [...all($("chat"))].find((one) => one.tag === "button" && one.textContent === "Send").click();
    await until(isIdle);
    assert.equal(wanted(), "user: q1 edited");
    assert.match(shown(), /q1 edited.*2 \/ 2.*a2/s);
  });
  await t.test("an answer that was cut is continued in place", async () => {
    await ask("q3", says("begin", "length"));
    await pressed("Continue", says("ning"));
    assert.ok(shown().includes("beginning"));
    assert.deepEqual([asked.at(-1).continue_final_message, asked.at(-1).messages.at(-1).content], [true, "begin"]);
  });
  await t.test("what the server says is wrong is shown, and tried again", async () => {
    await ask("q4", { status: 400, message: "seed: must be at least 0" });
    assert.ok(shown().includes("seed: must be at least 0"));
    await pressed("Retry", says("a4"));
    assert.ok(shown().includes("a4") && !shown().includes("seed:"));
  });
  await t.test("Escape stops an answer, which keeps what it has", async () => {
    ends = true;
    answers = [[delta({ content: "half" })]];
    $("text").value = "q5";
    $("form").onsubmit({ preventDefault() {} });
    await until(() => shown().includes("half"));
    document.onkeydown({ key: "Escape" });
    await until(isIdle);
    ends = null;
    assert.ok(shown().includes("half") && !shown().includes("stopped"));
  });
  await t.test("settings are in the request, and a wrong one is said before it", async () => {
    const { elements } = $("fields");
    const before = asked.length;
    elements.tools.value = "{";
    $("fields").oninput({ target: elements.tools });
    $("text").value = "q6";
    $("form").onsubmit({ preventDefault() {} });
    assert.deepEqual([asked.length, $("text").value, $("settings").hidden], [before, "q6", false]);
    assert.match($("fields").textContent, /is not JSON/);
    elements.tools.value = '{"name": "f"}';
    elements.system.value = "be brief";
    $("fields").oninput({ target: elements.tools });
    assert.ok(!$("fields").textContent.includes("is not JSON"));
    await ask("q6", [delta({ reasoning: "hm" }), delta({ tool_calls: [{ index: 0, id: "c1", function: { name: "f", arguments: '{"x":1}' } }] }, "tool_calls")]);
    assert.match(wanted(), /^system: be brief, user: q1 edited/);
    assert.equal(asked.at(-1).tools[0].function.name, "f");
    assert.match(shown(), /Reasoninghm.*Call of f\{\n {2}"x": 1\n\}/s);
  });
  await t.test("a call is answered by hand", async () => {
    [...all($("chat"))].find((one) => one.tag === "textarea").value = "42";
    await pressed("Send results", says("it is 42"));
    assert.deepEqual(asked.at(-1).messages.at(-1), { role: "tool", content: "42", tool_call_id: "c1" });
    assert.ok(shown().includes("it is 42"));
  });
  await t.test("token probabilities are asked for where they are switched on, and shown for a whole answer alone", async () => {
    const content = [{ token: "a7", logprob: -0.7, bytes: [97, 55], top_logprobs: [] }];
    const scored = { choices: [{ delta: { content: "a7" }, logprobs: { content }, finish_reason: "length" }] };
    const { logprobs } = $("fields").elements;
    const ofPage = () => [...all($("chat"))].filter((one) => one.attributes?.role === "option").map((one) => one.textContent);
    logprobs.checked = true;
    $("fields").oninput({ target: logprobs });
    await ask("q7", [scored]);
    assert.deepEqual([asked.at(-1).logprobs, asked.at(-1).top_logprobs], [true, 5]);
    assert.deepEqual(ofPage(), []);
    press("Token probabilities");
    assert.deepEqual(ofPage(), ["a7"]);
    await pressed("Continue", [scored]);
    assert.deepEqual(ofPage(), ["a7", "a7"]);
    logprobs.checked = false;
    $("fields").oninput({ target: logprobs });
    await pressed("Continue", says("more", "length"));
    assert.deepEqual([asked.at(-1).logprobs, ofPage()], [undefined, []]);
    logprobs.checked = true;
    $("fields").oninput({ target: logprobs });
    await pressed("Continue", says("more"));
    assert.equal(asked.at(-1).logprobs, undefined);
    logprobs.checked = false;
    $("fields").oninput({ target: logprobs });
  });
  await t.test("nothing of a model or a server becomes markup", async () => {
    const hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>";
    await ask(hostile, [delta({ reasoning: hostile, content: hostile }), delta({ tool_calls: [{ index: 0, id: "c", function: { name: hostile, arguments: hostile } }] }, hostile)]);
    await ask("q8", { status: 400, message: hostile });
    assert.equal(shown().split("<script>").length, 7);
    assert.ok(!/<(img|script)/.test(document.body.html.replace(/<script>/, "")));
    $("new").onclick();
    await ask(hostile, says("a"));
    assert.ok($("list").textContent.includes("<img") && !/<(img|script)/.test($("list").html));
    [...all($("list"))].find(({ attributes }) => attributes?.["aria-label"] === `Delete: ${hostile}`).click();
    press("q1");
  });
  await t.test("the key is sent, and kept for the tab alone", async () => {
    $("key").value = "secret";
    $("key").onchange();
    await ask("q9", says("a9"));
    assert.equal(keys.at(-1), "Bearer secret");
    assert.equal(sessionStorage.getItem("manta.key"), "secret");
    for (let index = 0; index < localStorage.length; index++) assert.ok(!localStorage.getItem(localStorage.key(index)).includes("secret"));
  });
  await t.test("conversations are kept, opened, renamed and deleted", async () => {
    document.onkeydown({ key: "k", ctrlKey: true, preventDefault() {} });
    assert.match(shown(), /Chat with the models/);
    await ask("another", says("yes"));
    const titles = () => [...all($("list"))].filter((one) => one.attributes?.class === "open").map((one) => one.textContent);
    assert.deepEqual(titles(), ["another", "q1"]);
    press("q1");
    assert.ok(shown().includes("it is 42"));
    press("Rename");
    assert.deepEqual(titles().sort(), ["a name", "another"]);
    press("Delete");
    assert.deepEqual(titles(), ["another"]);
    assert.match(shown(), /Chat with the models/);
  });
});
