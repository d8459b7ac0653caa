"""Which replica gets a request."""

import asyncio
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from cluster.replica_state import ReplicaState
from cluster.router import Router
from cluster.routing import Load, cheapest, costs_of, is_overloaded, power_of_two_choices, rendezvous_hash, round_robin
from configs.schema import RoutingConfig
from engine.types import EngineOutputs, EngineStatus, Rejection, RequestOutput
from tests.cluster.local import local_cluster
from tests.cluster.test_client import assert_is, collect
from tests.engine.toy import request

IDS = [f"replica-{i}" for i in range(8)]
IDLE = Load(100, 0, 0)


def test_the_cheapest_is_taken_and_equals_share() -> None:
    rng = random.Random(0)
    loads = [Load(100, 0, 4), Load(100, 0, 1), Load(100, 31, 0), Load(100, 0, 1), Load(100, 31, 0), Load(100, 32, 0)]
    taken = Counter(cheapest(loads, rng) for _ in range(1000))
    assert set(taken) == {2, 4} and min(taken.values()) > 400


@pytest.mark.parametrize("field", ["num_uncached_tokens", "num_queued_tokens", "num_requests"])
def test_more_of_anything_costs_more(field: str) -> None:
    more = Load(**{name: getattr(IDLE, name) + (name == field) for name in IDLE.__struct_fields__})
    less_cost, more_cost = costs_of([IDLE, more])
    assert more_cost > less_cost


def test_beside_an_idle_replica_only_what_is_waited_for_counts() -> None:
    rng = random.Random(0)
    for _ in range(300):
        loads = [Load(rng.randint(1, 4000), rng.randint(0, 4000), rng.randint(1, 9)) for _ in range(6)]
        loads[rng.randrange(6)] = idle = Load(rng.randint(1, 4000), 0, 0)
        taken = loads[cheapest(loads, rng)]
        assert taken.num_uncached_tokens + taken.num_queued_tokens <= idle.num_uncached_tokens


def test_where_everybody_is_busy_a_held_prefix_is_worth_a_longer_wait() -> None:
    rng = random.Random(0)
    holds, lacks = Load(100, 3000, 10), Load(1000, 1500, 10)
    assert cheapest([holds, lacks], rng) == 0
    assert cheapest([holds, lacks, Load(1000, 0, 0)], rng) == 2


def test_of_two_replicas_the_one_with_fewer_requests_is_taken() -> None:
    rng = random.Random(0)
    loads = [Load(1, 0, i) for i in range(6)]
    taken = Counter(power_of_two_choices(loads, rng) for _ in range(6000))
    assert taken[5] == 0, "the fullest wins against nobody"
    for i in range(5):  # wins against the 5 - i fuller ones: so many of the 15 pairs
        assert abs(taken[i] / 6000 - (5 - i) / 15) < 0.03
    assert power_of_two_choices(loads[:1], rng) == 0


def test_everybody_has_a_turn_while_replicas_come_and_go() -> None:
    last, seen = "", []
    for _ in range(16):
        last = IDS[round_robin(IDS, last)]
        seen.append(last)
    assert seen == sorted(IDS) * 2
    assert IDS[round_robin(IDS, "replica-5x")] == "replica-6"
    assert round_robin(IDS[:3], "replica-7") == 0


def test_sessions_spread_evenly_and_only_those_of_a_lost_replica_move() -> None:
    sessions = [f"session {i}" for i in range(4000)]
    before = {session: IDS[rendezvous_hash(session, IDS)] for session in sessions}
    assert all(350 < count < 650 for count in Counter(before.values()).values())
    left = IDS[:3] + IDS[4:]
    moved = [session for session in sessions if left[rendezvous_hash(session, left)] != before[session]]
    assert {before[session] for session in moved} == {IDS[3]}
    shuffled = random.Random(1).sample(IDS, len(IDS))
    assert all(shuffled[rendezvous_hash(session, shuffled)] == before[session] for session in sessions[:100])


@pytest.mark.parametrize("policy", ["cost", "power_of_two", "round_robin"])
def test_a_session_stays_at_home_unless_that_is_overloaded(policy: str) -> None:
    router = Router(RoutingConfig(policy=policy), random.Random(0))  # type: ignore[arg-type]
    at_home = rendezvous_hash("s", IDS)
    loads = [IDLE for _ in IDS]
    loads[at_home] = Load(100, 500, 3)
    assert not is_overloaded(at_home, loads)
    assert {router.choose("s", IDS, loads)[0] for _ in range(50)} == {at_home}
    loads[at_home] = Load(100, 1000, 3)
    assert is_overloaded(at_home, loads)
    assert {router.choose("s", IDS, loads)[0] for _ in range(50)} - {at_home}
    loads = [loads[at_home] for _ in IDS]  # nobody is better off
    assert {router.choose("s", IDS, loads)[0] for _ in range(50)} == {at_home}
    off = Router(RoutingConfig(policy=policy, session_affinity=False), random.Random(0))  # type: ignore[arg-type]
    assert len({off.choose("s", IDS, loads)[0] for _ in range(50)}) > 4


def test_what_was_sent_counts_until_the_replica_counts_it_itself() -> None:
    status = EngineStatus(
        model="toy",
        max_model_len=100,
        num_running=0,
        num_waiting=0,
        num_waiting_tokens=0,
        num_blocks=9,
        num_free_blocks=9,
    )
    replica_state = ReplicaState(status, 4, [b"a"])
    block_hashes = [b"a", b"b", b"c"]
    assert replica_state.load(13, block_hashes) == Load(9, 0, 0)
    replica_state.on_submit("r", 9, block_hashes)
    assert replica_state.load(13, block_hashes) == Load(1, 9, 1), "its blocks will be there"
    assert replica_state.load(13, [b"a", b"x", b"c"]) == Load(9, 9, 1)
    replica_state.on_report(EngineOutputs((), (), (), status))  # of a step that began before it came
    assert replica_state.load(13, block_hashes) == Load(1, 9, 1)
    busy = replace(status, num_running=1, num_prefill_tokens=5)
    replica_state.on_report(EngineOutputs(("r",), (), (), busy, (b"b",)))
    assert replica_state.load(13, block_hashes) == Load(1, 5, 1)
    replica_state.on_report(EngineOutputs((), (), (RequestOutput("r", 0, 0, (1,)),), busy, (b"c",), (b"b",)))
    assert replica_state.load(13, block_hashes) == Load(9, 5, 1), "b is gone again"
    for ended in ("stopped", "refused"):
        replica_state.on_submit(ended, 9, block_hashes)
        if ended == "stopped":
            replica_state.on_stop(ended)
        else:
            replica_state.on_report(EngineOutputs((), (Rejection(ended, "Overloaded", "full"),), (), busy))
        assert replica_state.load(13, block_hashes) == Load(9, 5, 1)


async def test_requests_of_a_session_go_to_one_replica_and_others_in_turn() -> None:
    async with local_cluster(3) as cluster:
        client = cluster.new_client(routing=RoutingConfig(policy="round_robin"))
        client.start()
        async with asyncio.timeout(30):
            while len(client._replicas["toy"].up) < 3:
                await asyncio.sleep(0.01)
        for i in range(9):
            await collect(client, request(f"turn{i}", [i], max_tokens=1))
        assert [toy.num_computed for toy in cluster.toys.values()] == [3, 3, 3]
        for i in range(6):
            one = request(f"session{i}", [40 + i], max_tokens=1)
            asked = replace(one, session="me")
            assert_is(await collect(client, asked), asked)
        assert sorted(toy.num_computed for toy in cluster.toys.values()) == [3, 3, 9]
        await client.close()
