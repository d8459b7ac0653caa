"""Cache layout: which layers share blocks, and where a block's pages lie.

Layers that keep the same tokens form a cache group, and a sequence has a list of blocks for each group. All groups
share one pool of blocks, each of so many pages of so many elements. Layers of one kind for which a block has no room
form several groups (as in vLLM's hybrid KV cache).

    10 layers with full attention, 50 with a window; a block has pages for the keys and values of 10 layers

    group 0          layers 5 11 17 .. 59     keeps every block of a sequence
    groups 1 to 5    layers 0 1 2 3 4 6 ..    keep the blocks of the window

A group's page may be a fraction of a block's, so that smaller ones fill it too.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec

from engine.arch.mixer_spec import Mixer, ParallelHeads, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.cache.cache_spec import PageSpec, StateSpec, page_spec, state_specs

__all__ = ["CacheGroup", "CacheLayout", "LayerPages", "longest_sequence"]

GROUP_COST = 0.01  # what each group must save of the memory: its tables are made in every step


class CacheGroup(msgspec.Struct, frozen=True):
    """Layers that keep the same tokens of a sequence: all of them, those of a window, or those of a chunk."""

    layers: tuple[int, ...] = ()
    window: int = 0  # tokens that a query sees, itself included; 0: no limit
    chunk: int = 0  # a query sees the tokens of its own chunk of so many alone; 0: no chunks
    pages: int = 1  # of its shape in one page of a block

    @property
    def keeps_all(self) -> bool:
        return not self.window and not self.chunk

    def first_seen(self, position: int) -> int:
        """The first position that a query at this one or a later one sees."""
        if self.chunk:
            return position // self.chunk * self.chunk
        return max(0, position + 1 - self.window) if self.window else 0

    def num_blocks(self, num_tokens: int, step_tokens: int, block_size: int) -> int:
        """The most blocks of a sequence of `num_tokens`, of which a step computes `step_tokens` at most."""
        whole = -(-num_tokens // block_size)
        if self.keeps_all:
            return whole
        span = (self.chunk or self.window) - 1 + step_tokens  # tokens, which may begin and end within a block
        begins_within = self.window or self.chunk % block_size
        return min(whole, (span + (block_size - 1 if begins_within else 0) + block_size - 1) // block_size)


class LayerPages(NamedTuple):
    """Where a layer's pages lie: one for each of its tensors."""

    group: int
    spec: PageSpec
    first: int  # its first page, counted in pages of its shape from the begin of a block


class CacheLayout(NamedTuple):
    block_size: int  # tokens
    groups: tuple[CacheGroup, ...]  # those that keep all tokens come first
    num_pages: int  # of a block
    page_elements: int
    pages: tuple[LayerPages | None, ...]  # that each layer reads, its own or another's; None: it reads no cache
    states: tuple[tuple[StateSpec, ...], ...]  # of each layer

    @classmethod
    def of(cls, arch: ModelArch, block_size: int, max_model_len: int | None = None) -> Self:
        """`max_model_len`: of the longest sequence; a window that none outgrows keeps all tokens. None: the model's."""
        longest = arch.max_model_len if max_model_len is None else max_model_len
        states = tuple(state_specs(layer.mixer) for layer in arch.layers)
        kinds: dict[_Kind, list[int]] = defaultdict(list)
        for index, layer in enumerate(arch.layers):
            if (spec := page_spec(layer.mixer)) is not None:
                kinds[_Kind(spec, *_reach(layer.mixer, longest))].append(index)
        if not kinds:
            return cls(block_size, (CacheGroup(),), 0, 0, (None,) * len(arch.layers), states)
        unit = math.lcm(*(kind.spec.num_elements(1) // kind.spec.num_tensors for kind in kinds))
        best = min(
            (division for kinds_ in (kinds, _keeping_all(kinds)) for division in _divisions(kinds_, unit, longest)),
            key=lambda division: division.cost,
        )
        groups, own = best.assign(len(arch.layers))
        pages = tuple(own[arch.kv_layer(index)] for index in range(len(arch.layers)))
        return cls(block_size, groups, best.num_pages, unit * block_size, pages, states)

    def block_bytes(self, itemsize: int) -> int:
        """The bytes of one block, with elements of `itemsize` bytes."""
        return self.num_pages * self.page_elements * itemsize

    def state_bytes(self, itemsize: int) -> int:
        """The bytes of one state in all layers."""
        return sum(one.num_bytes(max(2, itemsize)) for specs in self.states for one in specs)

    def num_blocks(self, num_tokens: int, step_tokens: int = 1) -> int:
        """The most blocks, of all groups, of a sequence of `num_tokens`; see CacheGroup.num_blocks."""
        return sum(group.num_blocks(num_tokens, step_tokens, self.block_size) for group in self.groups)


def longest_sequence(groups: Sequence[CacheGroup], num_blocks: int, block_size: int, most: int) -> int:
    """The most tokens, `most` at most, of a sequence for which there are blocks in every group when it is alone."""

    def fits(num_tokens: int) -> bool:
        return sum(group.num_blocks(num_tokens, block_size, block_size) for group in groups) <= num_blocks

    return bisect.bisect_left(range(1, most + 1), True, key=lambda num_tokens: not fits(num_tokens))


class _Kind(NamedTuple):
    spec: PageSpec
    window: int
    chunk: int


_Kinds = dict[_Kind, list[int]]  # kind -> its layers


def _reach(mixer: Mixer | None, longest: int) -> tuple[int, int]:
    """The window and the chunk that a mixer's sequences of `longest` tokens outgrow; 0: none."""
    attention = mixer.attention if isinstance(mixer, ParallelHeads) else mixer
    if not isinstance(attention, SelfAttention):
        return 0, 0
    window, chunk = attention.sliding_window, attention.attention_chunk
    return window if window < longest else 0, chunk if chunk < longest else 0


def _keeping_all(kinds: _Kinds) -> _Kinds:
    merged: _Kinds = defaultdict(list)
    for kind, layers in kinds.items():
        merged[kind._replace(window=0, chunk=0)] += layers
    return {kind: sorted(layers) for kind, layers in merged.items()}


class _Division(NamedTuple):
    """Layers divided into groups."""

    num_pages: int  # of a block
    unit: int  # elements of a token in a page
    parts: tuple[tuple[_Kind, tuple[int, ...]], ...]  # kind and layers of each group
    cost: float  # elements of the longest sequence, and what its groups cost

    def assign(self, num_layers: int) -> tuple[tuple[CacheGroup, ...], tuple[LayerPages | None, ...]]:
        groups: list[CacheGroup] = []
        pages: list[LayerPages | None] = [None] * num_layers
        for number, (kind, layers) in enumerate(self.parts):
            groups.append(CacheGroup(layers, kind.window, kind.chunk, _pages_per_unit(kind, self.unit)))
            for at, layer in enumerate(layers):
                pages[layer] = LayerPages(number, kind.spec, at * kind.spec.num_tensors)
        return tuple(groups), tuple(pages)


def _divisions(kinds: _Kinds, unit: int, longest: int) -> list[_Division]:
    """A division for each number of pages in a block."""
    most = max(_pages(kind, len(layers), unit) for kind, layers in kinds.items())
    ordered = sorted(kinds.items(), key=lambda item: (item[0].window + item[0].chunk > 0, item[1]))
    divisions = []
    for num_pages in range(1, most + 1):
        parts: list[tuple[_Kind, tuple[int, ...]]] = []
        tokens = 0
        for kind, layers in ordered:
            room = num_pages * _pages_per_unit(kind, unit) // kind.spec.num_tensors  # layers that a block holds
            if not room:
                break
            count = -(-len(layers) // room)
            height = -(-len(layers) // count)
            parts += ((kind, tuple(layers[at : at + height])) for at in range(0, len(layers), height))
            tokens += count * min(longest, kind.window or kind.chunk or longest)
        else:
            cost = num_pages * unit * tokens * (1 + GROUP_COST * len(parts))
            divisions.append(_Division(num_pages, unit, tuple(parts), cost))
    return divisions


def _pages(kind: _Kind, num_layers: int, unit: int) -> int:
    return -(-num_layers * kind.spec.num_tensors // _pages_per_unit(kind, unit))


def _pages_per_unit(kind: _Kind, unit: int) -> int:
    return unit // (kind.spec.num_elements(1) // kind.spec.num_tensors)
