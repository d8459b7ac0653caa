"""Which rows of a step belong to which recurrent state."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["StateLayout"]


@dataclass(frozen=True, slots=True)
class StateLayout:
    """query_starts   [S + 1] int32  rows [query_starts[s], query_starts[s + 1]) are sequence s; may be none
    seq_lens_S     [S] int32      tokens of sequence s, this step's included; where these are all, the state begins at 0
    slots_S        [S] int64      the slot of its state, read and then written
    """

    query_starts: Tensor
    seq_lens_S: Tensor
    slots_S: Tensor

    def sequences(self) -> list[tuple[int, int, int, bool]]:
        """(first row, end, slot, begins) of each sequence with rows. Waits for the device."""
        starts, lens, slots = self.query_starts.tolist(), self.seq_lens_S.tolist(), self.slots_S.tolist()
        pieces = zip(starts, starts[1:], slots, lens, strict=False)
        return [(start, end, slot, length == end - start) for start, end, slot, length in pieces if end > start]
