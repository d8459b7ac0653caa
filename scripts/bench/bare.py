"""Bare engines of a config under the load of scripts.bench.serve: python -m scripts.bench.bare [configs/FILE.yaml].

As many processes as the config has replicas, each with an engine of its own and its share of the clients; no Ray, no
HTTP, no text. The difference to the whole stack is the stack's overhead.
"""

import argparse
import multiprocessing
import os
import random
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from configs.load import load_file
from configs.schema import ModelConfig
from scripts.bench.record import print_json

__all__ = ["main"]


def work(model: ModelConfig, clients: int, rounds: int, max_tokens: int, begin: Barrier, results: Any) -> None:
    """A closed loop of `clients` on one engine. Reports (tokens, when it began, when it ended)."""
    from engine.engine import Engine
    from engine.execution.load import load_executor
    from engine.types import GenerateRequest, SamplingParams, TokenSpan

    executor = load_executor(model)
    engine = Engine(executor, model.name, model.engine)
    rng = random.Random(os.getpid())
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)

    def submit(number: int) -> None:
        prompt = tuple(rng.randrange(100, 1000) for _ in range(48))
        engine.submit(
            GenerateRequest(request_id=str(number), model=model.name, inputs=(TokenSpan(prompt),), sampling=sampling)
        )

    submit(-1)
    while engine.has_work:
        engine.step()
    begin.wait()
    began_s, num_sent, num_tokens = time.monotonic(), 0, 0
    for _ in range(clients):
        submit(num_sent)
        num_sent += 1
    while engine.has_work:
        for chunk in engine.step():
            num_tokens += len(chunk.tokens)
            if chunk.finish_reason is not None and num_sent < rounds * clients:
                submit(num_sent)
                num_sent += 1
    results.put((num_tokens, began_s, time.monotonic()))
    engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.bare", description=__doc__.split("\n")[0])
    parser.add_argument("config", nargs="?", default="configs/quickstart.yaml")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4, help="requests per client")
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    model = load_file(arguments.config).models[0]
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(model.num_replicas), context.Queue()
    clients = arguments.concurrency // model.num_replicas
    share = (model, clients, arguments.rounds, arguments.max_tokens, begin, results)
    processes = [context.Process(target=work, args=share) for _ in range(model.num_replicas)]
    for process in processes:
        process.start()
    parts = [results.get() for _ in processes]
    for process in processes:
        process.join()
    wall_s = max(ended for _, _, ended in parts) - min(began for _, began, _ in parts)
    rate = round(sum(tokens for tokens, _, _ in parts) / wall_s, 1)
    print(f"{len(processes)} bare engines, {clients} clients each: {rate} output tok/s")
    print_json({"benchmark": "bare", "arguments": vars(arguments), "output_tokens_per_s": rate})


if __name__ == "__main__":
    main()
