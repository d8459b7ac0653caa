"""A discrete-event simulation of a fleet: real schedulers, prefix caches and routing, simulated time, no processes.

Three kinds of events: a request arrives and is routed; a replica ends a step; a report reaches the ingress. The
ingress's replica state (`cluster.replica_state`) lags behind by a step and the network, as on the wire: a report is
sent at the end of a step, and a request that arrives during one waits for the next.
next.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence

import msgspec

from cluster.replica_state import ReplicaState
from cluster.router import Router
from configs.schema import EngineConfig, RoutingConfig, SchedulerConfig
from engine.cache.prefix_cache import hash_blocks, root_hash
from engine.engine import Engine
from engine.execution.executor import Executor
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.types import EngineOutputs, GenerateRequest, SamplingParams, TokenSpan

__all__ = ["Hardware", "Outcome", "Workload", "capacity", "requests_of", "simulate"]

MODEL, KEY = "simulated", b"simulated"


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """The speed of one replica. A step takes step_s and token_s for each token in it."""

    step_s: float = 0.008
    token_s: float = 0.0001
    num_blocks: int = 4096  # KV blocks for running requests and cached prefixes together
    block_size: int = 16
    network_s: float = 0.001  # one way
    scheduler: SchedulerConfig = SchedulerConfig(max_queued_requests=10**6, max_queued_tokens=10**9)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    num_requests: int
    num_prefixes: int = 200
    zipf: float = 1.0  # the k-th prefix's frequency is proportional to k ** -zipf
    prefix_len: tuple[int, int] = (1_000, 4_000)  # tokens; each prefix's own, drawn evenly
    suffix_len: tuple[int, int] = (64, 320)  # tokens that only this request has
    output_len: tuple[int, int] = (16, 112)
    sessions_per_prefix: float = 10.0  # mean; popular prefixes have more
    seed: int = 0


class Arrival(msgspec.Struct, frozen=True):
    at_s: float
    request: GenerateRequest
    block_hashes: list[bytes]  # of the prompt's full blocks
    prefix_len: int


class Outcome(msgspec.Struct):
    """The results of all requests, in the order of their arrival."""

    first_token_s: list[float]  # from arrival
    cached_tokens: int
    prompt_tokens: int
    sharable_tokens: int  # of prompts, but for the first request with each prefix: what perfect caching would find
    num_queued_beside_idle: int  # queued behind others, while some replica was idle
    num_unwise: int  # of these: those that would have had their first token sooner there, by more than the slack
    wall_s: float  # simulated


def capacity(hardware: Hardware, workload: Workload) -> float:
    """Requests per second of one replica that never computes a shared prefix.

    It then runs max_num_seqs sequences; each step decodes a token of each and computes the suffixes of those that
    replace the finished ones.
    """
    suffix, output = (sum(bounds) / 2 for bounds in (workload.suffix_len, workload.output_len))
    sequences = hardware.scheduler.max_num_seqs
    starts = sequences / output  # per step
    return starts / (hardware.step_s + hardware.token_s * (sequences + starts * suffix))


def requests_of(workload: Workload, per_s: float, block_size: int) -> list[Arrival]:
    """Poisson arrivals over shared prefixes of Zipf's popularity."""
    rng = random.Random(workload.seed)
    prefixes = [(1 + k,) * rng.randint(*workload.prefix_len) for k in range(workload.num_prefixes)]
    weights = [(1 + k) ** -workload.zipf for k in range(workload.num_prefixes)]
    num_sessions = workload.sessions_per_prefix * workload.num_prefixes
    root = root_hash(KEY, MODEL, "")
    arrivals, now_s = [], 0.0
    for number in range(workload.num_requests):
        now_s += rng.expovariate(per_s)
        (k,) = rng.choices(range(workload.num_prefixes), weights)
        suffix = (1 + workload.num_prefixes + number,) * rng.randint(*workload.suffix_len)
        session = rng.randrange(max(1, round(num_sessions * weights[k] / sum(weights))))
        request = GenerateRequest(
            request_id=str(number),
            model=MODEL,
            inputs=(TokenSpan(prefixes[k] + suffix),),
            sampling=SamplingParams(max_tokens=rng.randint(*workload.output_len), temperature=0.0),
            session=f"{k}-{session}",
        )
        block_hashes = hash_blocks(KEY, root, request.prompt, block_size)
        arrivals.append(Arrival(now_s, request, block_hashes, len(prefixes[k])))
    return arrivals


def simulate(
    routing: RoutingConfig, num_replicas: int, arrivals: Sequence[Arrival], hardware: Hardware, seed: int = 0
) -> Outcome:
    """Runs until every request has had its answer."""
    return _Fleet(routing, num_replicas, arrivals, hardware, seed).run()


class _NoExecutor(Executor):
    """Computes nothing, and counts the tokens of each step."""

    vocab_size = 2**31
    max_model_len = 2**20

    def __init__(self, hardware: Hardware) -> None:
        self.block_size, self.num_blocks = hardware.block_size, hardware.num_blocks
        self.num_tokens = 0  # of the last step

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        self.num_tokens = sum(len(piece.tokens) for piece in plan.sequences)
        return ModelOutput((0,) * sum(piece.samples for piece in plan.sequences))

    def close(self) -> None: ...


class _Replica:
    """The replica's real state. `engine` is always a step ahead: as it is when the running step ends."""

    def __init__(self, hardware: Hardware) -> None:
        self.executor = _NoExecutor(hardware)
        self.engine = Engine(self.executor, MODEL, EngineConfig(scheduler=hardware.scheduler), KEY)
        self.busy_until_s: float | None = None
        self.inbox: deque[Arrival] = deque()
        self.sent: deque[Arrival] = deque()  # on their way

    @property
    def is_free(self) -> bool:
        return self.busy_until_s is None and not self.inbox and not self.sent

    @property
    def has_queue(self) -> bool:
        """Whether a sequence waits there for its first token."""
        scheduler = self.engine.scheduler
        return bool(self.inbox or self.sent or scheduler.waiting or scheduler.num_prefill_tokens)


class _Fleet:
    def __init__(
        self, routing: RoutingConfig, num_replicas: int, arrivals: Sequence[Arrival], hardware: Hardware, seed: int
    ) -> None:
        self.hardware = hardware
        self.arrivals = arrivals
        self.router = Router(routing, random.Random(seed))
        self.replicas = [_Replica(hardware) for _ in range(num_replicas)]
        self.states = [ReplicaState(replica.engine.status(), hardware.block_size) for replica in self.replicas]
        self.ids = [f"replica-{index}" for index in range(num_replicas)]
        self.events: list[tuple[float, int, object]] = []  # when, a number that breaks ties, what
        self.numbers = itertools.count()
        self.outcome = Outcome([0.0] * len(arrivals), 0, 0, 0, 0, 0, 0.0)

    def run(self) -> Outcome:
        seen: set[int] = set()
        for arrival in self.arrivals:
            self.at(arrival.at_s, arrival)
            prefix = arrival.request.prompt[0]
            self.outcome.sharable_tokens += arrival.prefix_len if prefix in seen else 0
            self.outcome.prompt_tokens += len(arrival.request.prompt)
            seen.add(prefix)
        now_s = 0.0
        while self.events:
            now_s, _, what = heapq.heappop(self.events)
            match what:
                case Arrival():
                    self.place(now_s, what)
                case (int() as index, "arrived"):
                    replica = self.replicas[index]
                    replica.inbox.append(replica.sent.popleft())
                    if replica.busy_until_s is None:
                        self.step(now_s, index)
                case (int() as index, EngineOutputs() as report):
                    self.states[index].on_report(report)
                case int() as index:
                    self.replicas[index].busy_until_s = None
                    self.step(now_s, index)
        self.outcome.wall_s = now_s
        return self.outcome

    def at(self, when_s: float, what: object) -> None:
        heapq.heappush(self.events, (when_s, next(self.numbers), what))

    def place(self, now_s: float, arrival: Arrival) -> None:
        request = arrival.request
        loads = [replica_state.load(len(request.prompt), arrival.block_hashes) for replica_state in self.states]
        index, _ = self.router.choose(request.session, self.ids, loads)
        self.judge(now_s, arrival, index)
        self.states[index].on_submit(request.request_id, loads[index].num_uncached_tokens, arrival.block_hashes)
        self.replicas[index].sent.append(arrival)
        self.at(now_s + self.hardware.network_s, (index, "arrived"))

    def step(self, now_s: float, index: int) -> None:
        """The replica submits its arrivals and starts a step, if there is work: as engine/runtime/engine_thread.py."""
        replica = self.replicas[index]
        accepted = []
        while replica.inbox:
            request = replica.inbox.popleft().request
            replica.engine.submit(request)
            accepted.append(request.request_id)
        if not replica.engine.has_work:
            return
        chunks = replica.engine.step()
        end_s = now_s + self.hardware.step_s + self.hardware.token_s * replica.executor.num_tokens
        told_s = end_s + self.hardware.network_s
        for chunk in chunks:
            if chunk.start == 0:
                number = int(chunk.request_id)
                self.outcome.first_token_s[number] = told_s - self.arrivals[number].at_s
                self.outcome.cached_tokens += chunk.cached_tokens
        changes = replica.engine.scheduler.blocks.take_kv_events()
        replica.busy_until_s = end_s
        self.at(end_s, index)
        self.at(told_s, (index, EngineOutputs(tuple(accepted), (), tuple(chunks), replica.engine.status(), *changes)))

    def judge(self, now_s: float, arrival: Arrival, chosen: int) -> None:
        """Counts a request that is placed behind others while a replica is idle."""
        idle = [replica for replica in self.replicas if replica.is_free]
        if not idle or not self.replicas[chosen].has_queue:
            return
        self.outcome.num_queued_beside_idle += 1
        there_s = min(self.expected_s(now_s, arrival, replica) for replica in idle)
        here_s = self.expected_s(now_s, arrival, self.replicas[chosen])
        slack_s = self.hardware.step_s + self.hardware.token_s * self.hardware.scheduler.max_num_batched_tokens
        self.outcome.num_unwise += here_s > there_s + slack_s

    def expected_s(self, now_s: float, arrival: Arrival, replica: _Replica) -> float:
        """The time to first token there, with everything known but later arrivals."""
        hardware, scheduler = self.hardware, replica.engine.scheduler
        num_tokens, coming = scheduler_backlog(scheduler)
        for one in [*replica.inbox, *replica.sent, arrival]:
            num_tokens += uncomputed(one.block_hashes, len(one.request.prompt), scheduler, coming)
        num_decodes = sum(seq.num_uncomputed == 1 for seq in scheduler.running)
        num_steps = -(-num_tokens // max(1, hardware.scheduler.max_num_batched_tokens - num_decodes))
        rest_s = max(0.0, replica.busy_until_s - now_s) if replica.busy_until_s is not None else 0.0
        return rest_s + num_steps * (hardware.step_s + num_decodes * hardware.token_s) + num_tokens * hardware.token_s


def scheduler_backlog(scheduler: Scheduler) -> tuple[int, set[bytes]]:
    """Tokens to compute before all sequences there decode, and the hashes of the blocks that this fills."""
    num_tokens = sum(seq.num_uncomputed - 1 for seq in scheduler.running)
    coming = {name for seq in scheduler.running for name in seq.block_hashes[seq.num_cached_blocks :]}
    for seq in scheduler.waiting:
        num_tokens += uncomputed(seq.block_hashes, len(seq.tokens), scheduler, coming)
    return num_tokens, coming


def uncomputed(block_hashes: Sequence[bytes], num_tokens: int, scheduler: Scheduler, coming: set[bytes]) -> int:
    """Tokens of a prompt that are neither cached nor about to be; adds its blocks to those."""
    held = len(scheduler.blocks.cache.match(block_hashes))
    missing = [name for name in block_hashes[held:] if name not in coming]
    coming.update(missing)
    return num_tokens - scheduler.blocks.block_size * (len(block_hashes) - len(missing))
