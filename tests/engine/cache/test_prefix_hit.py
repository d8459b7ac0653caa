"""Prefix hits against the rule that they follow, tried for every length."""

from hypothesis import given
from hypothesis import strategies as st

from engine.cache.cache_layout import CacheGroup
from engine.cache.prefix_hit import longest_hit

GROUPS = st.one_of(
    st.just(CacheGroup()),
    st.builds(CacheGroup, window=st.integers(1, 20)),
    st.builds(CacheGroup, chunk=st.integers(1, 20)),
)


@given(
    groups=st.lists(GROUPS, min_size=1, max_size=4),
    num_blocks=st.integers(0, 12),
    block_size=st.integers(1, 5),
    data=st.data(),
)
def test_it_is_the_longest_prefix_after_which_every_group_has_what_the_next_token_sees(
    groups: list[CacheGroup], num_blocks: int, block_size: int, data: st.DataObject
) -> None:
    hashes = [bytes([number]) for number in range(num_blocks)]
    held = [set(data.draw(st.lists(st.sampled_from(hashes), unique=True))) if hashes else set() for _ in groups]

    def can_go_on(length: int) -> bool:
        """Every token from `first` on is seen by the one after the prefix."""
        position = length * block_size
        for group, has in zip(groups, held, strict=True):
            seen = (at for at in range(position) if at >= group.first_seen(position))
            if any(hashes[at // block_size] not in has for at in seen):
                return False
        return True

    expected = max(length for length in range(num_blocks + 1) if can_go_on(length))
    assert longest_hit(groups, held, hashes, block_size) == expected
