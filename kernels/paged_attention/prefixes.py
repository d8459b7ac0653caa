"""Shared prefixes of cascade attention: which sequences of a batch begin with the same keys, in the same blocks."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SharedPrefixes"]


@dataclass(frozen=True)
class SharedPrefixes:
    """Groups of sequences with one query each; a sequence is in one group or in none.

    group_starts   [K + 1] int32  members [group_starts[k], group_starts[k + 1]) are group k; may be none
    members        [X] int32      sequences
    shared_lens_S  [S] int32      keys in the first blocks, the same for all of a sequence's group: whole blocks, and
                                  fewer keys than each sequence has; 0 for those of no group
    """

    group_starts: Tensor
    members: Tensor
    shared_lens_S: Tensor
