// Asks the server for its status, again and again: not while the tab is hidden, and more rarely while the server is gone.

const [EACH_MS, MOST_MS, TIMEOUT_MS] = [1000, 5000, 4000];

// asks: { fetch, headers(), isHidden(), answer(json), failed(message, status) }. Returns { now(), stop() }: asks at once; ends.
export function polling(asks) {
  let [timer, wait, round] = [null, EACH_MS, 0];

  async function ask() {
    clearTimeout(timer);
    const own = ++round;
    if (asks.isHidden()) return;
    try {
      const response = await asks.fetch("status", { headers: { Accept: "application/json", ...asks.headers() }, signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (!response.ok) throw Object.assign(new Error(await reason(response)), { status: response.status });
      const found = await response.json();
      if (own !== round) return;
      asks.answer(found);
      wait = EACH_MS;
    } catch (error) {
      if (own !== round) return;
      asks.failed(error.status ? error.message : "The server does not answer", error.status);
      wait = Math.min(MOST_MS, 2 * wait);
    }
    timer = setTimeout(ask, wait);
  }

  return {
    now() { wait = EACH_MS; ask(); },
    stop() { clearTimeout(timer); round++; },
  };
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answers with status ${response.status}`;
  }
}
