"""What one replica keeps of the state."""

from cluster.state_shard import OVERHEAD_BYTES, Entry, StateLimits, StateShard

LIMITS = StateLimits(max_bytes=1000, max_owner_bytes=3 * (OVERHEAD_BYTES + 30), age_s=60.0)
NAME = ("kind", "owner", "key")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def keys(shard: StateShard, kind: str = "kind") -> list[str]:
    return [key for _, key, _ in shard.versions(kind)]


def test_only_newer_entries_are_kept() -> None:
    shard = StateShard(Clock())
    assert shard.get(NAME) == Entry()
    assert shard.put(NAME, Entry(2, 0.0, b"two"), LIMITS)
    for version in (1, 2):
        assert not shard.put(NAME, Entry(version, 0.0, b"other"), LIMITS)
    assert shard.get(NAME).data == b"two"
    assert shard.put(NAME, Entry(3, 0.0, b""), LIMITS) and shard.versions("kind") == [("owner", "key", 3)]


def test_the_least_recently_used_of_an_owner_goes_first() -> None:
    shard = StateShard(Clock())
    for key in "abc":
        shard.put(("kind", "owner", key), Entry(1, 0.0, b"x" * 30), LIMITS)
    shard.get(("kind", "owner", "a"))
    shard.put(("kind", "owner", "d"), Entry(1, 0.0, b"x" * 30), LIMITS)
    assert keys(shard) == ["c", "a", "d"]
    shard.put(("kind", "other", "e"), Entry(1, 0.0, b"x" * 30), LIMITS)
    shard.put(("other", "owner", "f"), Entry(1, 0.0, b"x" * 30), LIMITS)
    assert keys(shard) == ["c", "a", "d", "e"] and keys(shard, "other") == ["f"]


def test_all_owners_of_a_kind_are_bounded_together() -> None:
    shard = StateShard(Clock())
    for owner in range(20):
        shard.put(("kind", str(owner), "k"), Entry(1, 0.0, b"x" * 36), LIMITS)
    assert [owner for owner, _, _ in shard.versions("kind")] == [str(owner) for owner in range(10, 20)]


def test_what_is_too_large_drops_what_was_there_and_nothing_else() -> None:
    shard = StateShard(Clock())
    for key in "ab":
        shard.put(("kind", "owner", key), Entry(1, 0.0, b"x"), LIMITS)
    shard.put(("kind", "owner", "a"), Entry(2, 0.0, b"x" * 1000), LIMITS)
    assert keys(shard) == ["b"]


def test_an_old_entry_is_gone() -> None:
    clock = Clock()
    shard = StateShard(clock)
    shard.put(NAME, Entry(1, 0.0, b"x"), LIMITS)
    clock.now_s = 61.0
    assert shard.get(NAME) == Entry() and keys(shard) == []
