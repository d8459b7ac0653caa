// The events of a streamed answer. A lost line is taken up again: the Idempotency-Key names the request, Last-Event-ID its last event.

import { newId } from "./store.mjs";

// What the server says is wrong; trying again by itself would not help.
export class Refused extends Error {}

// As `resumed`. What is stopped here does not go on at the server.
export async function* answerEvents(asked, signal, { headers, notice }) {
  let stream = "";
  try {
    for await (const { id, found } of resumed(asked, signal, { headers, notice })) {
      [stream] = id.split(".");
      yield found;
    }
  } finally {
    if (signal.aborted && stream) fetch("v1/streams/" + stream, { method: "DELETE", headers: headers() }).catch(() => {});
  }
}

// The events of an answer, those together that came together.
//   headers()      of every request
//   notice(text)   what to tell about the line; "" when it is well
async function* resumed(asked, signal, { headers, notice }) {
  const key = newId();
  let last = "";
  for (let failures = 0; ; failures++) {
    try {
      const response = await fetch("v1/chat/completions", {
        method: "POST", signal, body: JSON.stringify(asked),
        headers: { ...headers(), "Idempotency-Key": key, ...(last && { "Last-Event-ID": last }) },
      });
      if (response.status === 204) return;
      if (!response.ok && (!last || response.status < 429)) throw await refusal(response, last);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", id = ""; response.ok;) {
        const { done, value } = await reader.read();
        if (done) break;
        notice("");
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        const found = [];
        let failed = null;
        for (const line of lines) {
          if (line.startsWith("id: ")) id = line.slice(4);
          if (!line.startsWith("data: {")) continue;
          const event = JSON.parse(line.slice(6));
          failed ??= event.error;
          if (failed) break;
          [last, failures] = [id, 0];
          found.push(event);
        }
        if (found.length) yield { id: last, found };
        if (failed) throw new Refused(failed.message);
        if (lines.includes("data: [DONE]")) return;
      }
    } catch (error) {
      if (error instanceof Refused || signal.aborted || !last || failures >= 8) throw error;
    }
    notice("The line is lost; trying again");
    await new Promise((done) => setTimeout(done, Math.min(10000, 500 * 2 ** failures)));
    if (signal.aborted) return;
  }
}

// Not every answer is the server's: a proxy on the way has its own, which is no JSON.
async function refusal(response, last) {
  try {
    return new Refused((await response.json()).error.message);
  } catch (error) {
    return last ? error : new Refused(`The server answered ${response.status} ${response.statusText}`.trim());
  }
}
