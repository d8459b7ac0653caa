import asyncio
import json
from types import SimpleNamespace

import pytest

from serve_app.responses.kept import LONGEST_ID, MAX_REFERENCES, PIECE_BYTES, Conversation, KeptResponse, KeptResponses
from serve_app.state.store import MemoryStore, StoreLimits

TENANT = SimpleNamespace(name="")
LONGEST = "r" * 160


@pytest.fixture
async def kept():
    responses = KeptResponses(MemoryStore(StoreLimits(10**9, 10**9, 1000.0)))
    output = [{"id": f"msg_{LONGEST}_123456", "type": "message"}]
    await responses.put_response(
        TENANT, f"resp_{LONGEST}", KeptResponse(body=json.dumps({"output": output}).encode(), input_items=b"[]")
    )
    return responses


async def referred(kept, body):
    return json.loads((await kept.history(json.dumps(body).encode(), TENANT)).references or b"{}")


@pytest.mark.parametrize("before", [0, 1, 3, 90, LONGEST_ID - 3, LONGEST_ID - 2, LONGEST_ID - 1, LONGEST_ID])
async def test_an_id_is_found_wherever_it_lies_in_a_body(kept, before):
    """Across the border of two pieces, too."""
    reference = {"type": "item_reference", "id": f"msg_{LONGEST}_123456"}
    at = json.dumps({"input": ["", reference]}).index('"msg_')
    body = {"input": ["x" * (PIECE_BYTES - at - before), reference]}
    assert json.dumps(body).index('"msg_') == PIECE_BYTES - before
    assert list(await referred(kept, body)) == [reference["id"]]


async def test_no_more_responses_are_looked_up_than_an_input_may_refer_to(kept):
    many = [{"type": "item_reference", "id": f"msg_{n}_0"} for n in range(MAX_REFERENCES)]
    last = {"type": "item_reference", "id": f"msg_{LONGEST}_123456"}
    assert await referred(kept, {"input": [*many[1:], last]}) != {}
    assert await referred(kept, {"input": [*many, last]}) == {}


async def test_what_two_ingresses_add_to_a_conversation_at_once_is_all_there():
    store = MemoryStore(StoreLimits(10**9, 10**9, 1000.0))
    ingresses = [KeptResponses(_Slow(store)) for _ in range(3)]
    await ingresses[0].put_conversation(TENANT, Conversation(id="c", created_at=0))
    adding = [
        ingresses[number % 3].extend_conversation(TENANT, "c", json.dumps([{"id": f"i{number}"}]).encode())
        for number in range(12)
    ]
    await asyncio.gather(*adding)
    items = json.loads((await ingresses[0].conversation(TENANT, "c")).items)
    assert sorted(item["id"] for item in items) == sorted(f"i{number}" for number in range(12))


async def test_items_that_are_there_are_not_added_again(kept):
    await kept.put_conversation(TENANT, Conversation(id="c", created_at=0))
    for ids in ("ab", "abc", "c"):
        await kept.extend_conversation(TENANT, "c", json.dumps([{"id": id_} for id_ in ids]).encode())
    assert [item["id"] for item in json.loads((await kept.conversation(TENANT, "c")).items)] == ["a", "b", "c"]


class _Slow:
    """A store that others reach between any two calls."""

    def __init__(self, store):
        self._store = store

    async def get(self, owner, key):
        await asyncio.sleep(0.001)
        return await self._store.get(owner, key)

    async def put(self, owner, key, data):
        await asyncio.sleep(0.001)
        await self._store.put(owner, key, data)

    async def replace(self, owner, key, before, data):
        await asyncio.sleep(0.001)
        return await self._store.replace(owner, key, before, data)
