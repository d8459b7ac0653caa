"""Routing policies on a simulated fleet: python -m scripts.bench.routing [--write].

Schedulers, prefix caches and routing are real, time is simulated (scripts/bench/fleet.py). The load is a share of the
fleet's capacity without any recomputed prefix.
"""

import argparse
import datetime
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from configs.schema import RoutingConfig
from scripts.bench.fleet import Hardware, Outcome, Workload, capacity, requests_of, simulate
from scripts.bench.plot import distribution_svg
from scripts.bench.record import describe, percentiles

__all__ = ["POLICIES", "main", "row"]

POLICIES = {
    "cost": RoutingConfig(policy="cost", session_affinity=False),
    "cost, sessions": RoutingConfig(policy="cost", session_affinity=True),
    "power of two": RoutingConfig(policy="power_of_two", session_affinity=False),
    "power of two, sessions": RoutingConfig(policy="power_of_two", session_affinity=True),
    "round robin": RoutingConfig(policy="round_robin", session_affinity=False),
}
RESULTS = Path(__file__).parent / "results"


def row(outcome: Outcome) -> dict[str, Any]:
    return {
        "first_token_ms": {"mean": round(1000 * fmean(outcome.first_token_s), 2)} | percentiles(outcome.first_token_s),
        "cached_of_sharable": round(outcome.cached_tokens / outcome.sharable_tokens, 3),
        "queued_beside_idle": outcome.num_queued_beside_idle,
        "unwise": outcome.num_unwise,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.routing", description=__doc__.split("\n")[0])
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--prefixes", type=int, default=200)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.1, 0.75], help="shares of the fleet's capacity")
    parser.add_argument("--write", action="store_true", help="keep the result and a plot of the last load")
    options = parser.parse_args()
    hardware = Hardware()
    workload = Workload(num_requests=options.requests, num_prefixes=options.prefixes)
    full_per_s = capacity(hardware, workload) * options.replicas
    found: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[float]] = {}
    print("load  policy                    first token: mean      p50      p99  cached  beside idle  unwise")
    for load in options.loads:
        arrivals = requests_of(workload, load * full_per_s, hardware.block_size)
        found[f"{load:g}"] = {}
        for name, routing in POLICIES.items():
            outcome = simulate(routing, options.replicas, arrivals, hardware)
            one = found[f"{load:g}"][name] = row(outcome)
            curves[name] = outcome.first_token_s
            times = one["first_token_ms"]
            print(
                f"{load:4.0%}  {name:24}  {times['mean']:14.0f} ms {times['p50']:5.0f} ms {times['p99']:5.0f} ms "
                f"{one['cached_of_sharable']:6.1%} {one['queued_beside_idle']:12} {one['unwise']:7}",
                flush=True,
            )
    result = {
        "benchmark": "routing",
        "arguments": vars(options),
        "full_load_per_s": round(full_per_s, 1),
        "loads": found,
    }
    line = json.dumps({**describe(), **result})
    print(line)
    if options.write:
        path = RESULTS / f"{datetime.date.today()}_routing.json"
        path.write_text(line + "\n")
        title = f"Time to first token, {options.replicas} simulated replicas at {options.loads[-1]:.0%} load"
        path.with_suffix(".svg").write_text(distribution_svg(title, "s", curves))


if __name__ == "__main__":
    main()
