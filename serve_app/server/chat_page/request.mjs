// What is asked of the server, and what its events make of an answer.

import { withTokens } from "./tokens.mjs";

// A number's bounds are the server's to say: here it only has to be one.
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const NUM_ALTERNATIVES = 5; // of each token

// The settings as fields of a request, and what is wrong with some of them: { fields, faults }, both by name.
export function requestFields(settings) {
  const [fields, faults] = [{}, {}];
  for (const name of NUMBERS) {
    const text = (settings[name] ?? "").trim();
    if (!text) continue;
    if (Number.isFinite(Number(text))) fields[name] = Number(text);
    else faults[name] = "must be a number";
  }
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: NUM_ALTERNATIVES });
  const schema = parsed("schema", settings.schema);
  if (schema !== undefined) {
    if (typeof schema !== "object" || schema === null || Array.isArray(schema)) faults.schema = "must be a JSON object";
    else fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  }
  const tools = parsed("tools", settings.tools);
  if (tools !== undefined) {
    const list = Array.isArray(tools) ? tools : [tools];
    if (list.some((tool) => typeof tool !== "object" || tool === null || !(tool.function ?? tool).name)) faults.tools = "must be a list of functions with names";
    // or functions alone
    else if (list.length) fields.tools = list.map((tool) => (tool.function ? tool : { type: "function", function: tool }));
  }
  return { fields, faults };

  function parsed(name, text) {
    if (!text?.trim()) return undefined;
    try {
      return JSON.parse(text);
    } catch (error) {
      faults[name] = `is not JSON: ${error.message}`;
      return undefined;
    }
  }
}

// The messages of a request, of those of a conversation.
export function requestMessages(messages, system) {
  const sent = messages.filter((message) => message.role !== "assistant" || message.content || message.calls?.length);
  return [...(system?.trim() ? [{ role: "system", content: system }] : []), ...sent.map(wireMessage)];
}

function wireMessage({ role, content, calls = [], call_id }) {
  if (role === "tool") return { role, content, tool_call_id: call_id };
  if (!calls.length) return { role, content };
  return { role, content: content || null, tool_calls: calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } })) };
}

export const newAnswer = () => ({ role: "assistant", content: "", reasoning: "", calls: [], error: "", finish: "", figures: {}, tokens: [] });

// Takes an event of the stream into the answer. Returns whether there is more of it to see.
export function takeEvent(answer, event) {
  const { usage } = event;
  if (usage) {
    const { completion_tokens: tokens, prompt_tokens: prompt, migrations = 0 } = usage;
    Object.assign(answer.figures, { tokens, prompt, migrations, cached: usage.prompt_tokens_details?.cached_tokens ?? 0 });
  }
  const choice = event.choices?.[0];
  if (!choice) return false;
  const { content, reasoning, reasoning_content, tool_calls = [] } = choice.delta ?? {};
  answer.content += content ?? "";
  answer.reasoning += reasoning ?? reasoning_content ?? "";
  for (const { index, id, function: said } of tool_calls) {
    const call = (answer.calls[index ?? 0] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name += said?.name ?? "";
    call.arguments += said?.arguments ?? "";
  }
  if (choice.logprobs?.content) answer.tokens = withTokens(answer.tokens, choice.logprobs.content);
  answer.finish = choice.finish_reason ?? answer.finish;
  return Boolean(content || reasoning || reasoning_content || tool_calls.length);
}

// The line under an answer.
export function figuresText({ tokens, seconds, first, cached, prompt, migrations }) {
  if (!tokens) return "";
  return [
    `${tokens} tokens`,
    seconds > 0 && `${(tokens / seconds).toFixed(1)} tokens/s`,
    first !== undefined && `first after ${first.toFixed(2)} s`,
    cached > 0 && `${cached} of ${prompt} prompt tokens cached`,
    migrations > 0 && `moved to another replica ${migrations > 1 ? `${migrations} times` : "once"}, nothing lost`,
  ].filter(Boolean).join(" · ");
}
