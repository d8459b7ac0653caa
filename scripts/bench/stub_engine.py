"""A stub executor without a model: tokens at a steady pace, each a function of the previous one."""

import time
from collections.abc import Sequence

from engine.execution.executor import Executor
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput

__all__ = ["StubExecutor"]


class StubExecutor(Executor):
    """The next token depends on the last one, its position and the choice's seed, so that mixed-up streams show.

    tokens   of its answers
    step_s   time of every step, for any batch: a stream gets 1 / step_s tokens a second
    """

    vocab_size = 2**31

    def __init__(
        self,
        tokens: Sequence[int],
        step_s: float,
        num_blocks: int = 8192,
        block_size: int = 16,
        context_len: int = 4096,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = context_len
        self._tokens = tokens
        self._step_s = step_s
        self._next_s = 0.0  # when the running step may end
        self._seeds: dict[int, int] = {}

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        for seq_id in plan.finished_ids:
            self._seeds.pop(seq_id, None)
        for start in plan.new_sequences:
            self._seeds[start.seq_id] = start.seed
        tokens = [
            self._tokens[
                (31 * piece.tokens[-1] + 17 * (piece.start + len(piece.tokens)) + self._seeds[piece.seq_id])
                % len(self._tokens)
            ]
            for piece in plan.sequences
            if piece.samples
        ]
        now_s = time.monotonic()
        self._next_s = max(self._next_s, now_s - self._step_s) + self._step_s  # steps follow each other without drift
        time.sleep(max(0.0, self._next_s - now_s))
        return ModelOutput(tuple(tokens))

    def close(self) -> None: ...
