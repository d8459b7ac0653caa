// The last five minutes of each model: samples of its load, with rates from the engines' counters.

export const KEPT_S = 300;
const RATE_S = 3; // rates are means over at least so long: steps of large batches are no steps of the chart

const COUNTERS = ["num_generated_tokens", "num_prompt_tokens", "num_cached_tokens"];

export function newHistory() {
  const models = new Map(); // name -> { samples, counts }

  // Takes an answer of /status that came at `now_s`.
  function add(answer, now_s) {
    for (const status of answer.data) {
      const replicas = fleetOf(answer, status.model)?.replicas ?? [];
      const kept = models.get(status.model) ?? { samples: [], totals: null, last: new Map() };
      models.set(status.model, kept);
      kept.totals = counted(kept, replicas.length ? replicas : [{ replica_id: "", engine: status }]);
      kept.samples.push({
        at_s: now_s, totals: kept.totals, running: status.num_running, waiting: status.num_waiting,
        in_use: status.num_blocks ? 1 - status.num_free_blocks / status.num_blocks : 0,
        replicas: replicas.filter(({ state }) => state === "running").length,
        target: fleetOf(answer, status.model)?.autoscaling?.target_replicas ?? null,
      });
    }
    for (const kept of models.values()) {
      kept.samples = kept.samples.filter(({ at_s }) => at_s > now_s - KEPT_S);
      setRates(kept.samples);
    }
  }
  return { add, samples: (model) => models.get(model)?.samples ?? [] };
}

export const fleetOf = (answer, model) => (answer.fleet ?? []).find((one) => one.model === model) ?? null;

// Sums that never fall: what each replica has counted since it was first seen. One that is gone takes nothing away,
// and one that has started again counts from 0.
function counted(kept, replicas) {
  const totals = { ...(kept.totals ?? Object.fromEntries(COUNTERS.map((name) => [name, 0]))) };
  for (const { replica_id: id, engine } of replicas) {
    if (!engine) continue;
    const before = kept.last.get(id);
    if (before) for (const name of COUNTERS) totals[name] += engine[name] >= before[name] ? engine[name] - before[name] : engine[name];
    kept.last.delete(id);
    kept.last.set(id, engine);
  }
  while (kept.last.size > 1000) kept.last.delete(kept.last.keys().next().value);
  return totals;
}

function setRates(samples) {
  const last = samples.at(-1);
  const before = samples.findLast(({ at_s }) => at_s <= last?.at_s - RATE_S) ?? samples[0];
  if (!last || last === before || "tokens_s" in last) return;
  const [now, then] = [last.totals, before.totals];
  last.tokens_s = (now.num_generated_tokens - then.num_generated_tokens) / (last.at_s - before.at_s);
  const asked = now.num_prompt_tokens - then.num_prompt_tokens;
  last.prompt_s = asked / (last.at_s - before.at_s);
  if (asked > 0) last.hit_rate = (now.num_cached_tokens - then.num_cached_tokens) / asked;
}
