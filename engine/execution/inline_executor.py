"""The executor of one rank: execute_model in the caller's thread."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from engine.cache.kv_connector import KVConnector
from engine.device.core_lending import CoreLending
from engine.device.transfer import to_device
from engine.execution.cuda_graphs import CudaGraphs
from engine.execution.executor import Executor
from engine.execution.loaded_model import LoadedModel
from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds, group_by_prefix
from engine.model.forward_batch import ForwardBatch
from engine.sampling.sampler import Sampler, Sampling
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput

__all__ = ["InlineExecutor"]


class InlineExecutor(Executor):
    """Runs one rank's model, cache and sampler in the caller's thread."""

    def __init__(
        self,
        model: LoadedModel,
        sampler: Sampler,
        graphs: CudaGraphs | None = None,
        async_scheduling: bool = False,
        cascade: CascadeThresholds | None = None,
        connectors: tuple[KVConnector | None, KVConnector | None] = (None, None),
    ) -> None:
        """graphs             of this decoder and this KV cache; None: every step is launched kernel by kernel
        async_scheduling   launch a step before the last one is sampled: the device works on its own
        cascade            from how many rows and tokens on a shared prefix is read once for all; None: never
        connectors         of this KV cache's blocks and states; closed with the executor

        With several ranks only the first one samples.
        """
        self.connector, self.state_connector = connectors
        self.async_scheduling = async_scheduling
        self.cascade = cascade
        self.samples = model.tp.rank == 0
        self.vocab_size = model.decoder.arch.vocab_size
        self.max_model_len = model.max_model_len
        self.block_size = model.kv.block_size
        self.num_blocks, self.num_states = model.kv.num_blocks, model.kv.num_states
        self.cache_groups = model.kv.layout.groups
        self._tables = BlockTables(self.block_size, self.cache_groups)
        self._decoder = model.decoder
        self._kv = model.kv
        self._sampler = sampler
        self._device = model.device
        self._graphs = graphs
        self._begun: tuple[SchedulerOutput, Tensor]
        self._sampled: Sampling | None = None
        self._tp = model.tp
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="grammar")  # beside the forward pass
        self.cores: CoreLending | None = None  # closed with the executor; None: its own threads compute every step

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput:
        self._begin(scheduled)
        self._sampler.update(scheduled)
        if not scheduled.sequences:
            return ModelOutput(())
        with self.cores.step(scheduled.num_tokens) if self.cores is not None else nullcontext():
            return self._compute(scheduled)

    def _compute(self, scheduled: SchedulerOutput) -> ModelOutput:
        if not self._sampler.has_grammar(scheduled):
            return self._sampler.sample(scheduled, self._forward(scheduled))
        bits = self._aside.submit(self._sampler.grammar_bits, scheduled)
        logits_RV = self._forward(scheduled)
        return self._sampler.sample(scheduled, logits_RV, bits.result())

    def launch_model(self, scheduled: SchedulerOutput) -> None:
        """Queues the forward pass. A token of -1 is the one that the sequence samples, or sampled, in the last step, in
        which no sequence has draft tokens.
        """
        self._begin(scheduled)
        self._begun = scheduled, self._forward(scheduled)

    def sample_tokens(self) -> Sampling:
        """Samples the step that was launched last. The result must be read before the next call."""
        scheduled, logits_RV = self._begun
        self._sampler.update(scheduled)
        bits = self._sampler.grammar_bits(scheduled) if self._sampler.has_grammar(scheduled) else None
        self._sampled = self._sampler.begin(scheduled, logits_RV, bits)
        return self._sampled

    def execute_without_sampling(self, scheduled: SchedulerOutput) -> None:
        """The forward pass alone, for ranks that do not sample."""
        self._begin(scheduled)
        if scheduled.sequences:
            self._forward(scheduled)

    def compile_grammar(self, text: str) -> None:
        """Compiles a grammar ahead of its first step, in any thread."""
        self._sampler.compile_grammar(text)

    def _begin(self, scheduled: SchedulerOutput) -> None:
        """What changes in the cache before a step."""
        self._kv.copy(scheduled.copies)
        self._kv.copy_states(scheduled.state_copies)
        self._tables.update(scheduled)

    def fill(self, block: int, data: bytes, is_state: bool = False) -> None:
        """Copies what a connector has saved into a block, or a state's slot, before the next step reads it."""
        (self._kv.states if is_state else self._kv.blocks).fill(block, data)

    def _forward(self, scheduled: SchedulerOutput) -> Tensor:
        """[R, V] logits."""
        groups = group_by_prefix(scheduled.sequences, self._tables, self.cascade) if self.cascade is not None else []
        if self._graphs is not None and self._graphs.fits(scheduled):
            put_tokens = partial(self._put_sampled, scheduled)
            return self._decoder.logits(self._graphs.hidden(scheduled, self._tables, groups, put_tokens))
        batch = ForwardBatch.from_scheduled(scheduled, self._tables, self._device, groups)
        self._put_sampled(scheduled, batch.tokens_T)
        return self._decoder.forward(batch, self._kv)

    def _put_sampled(self, scheduled: SchedulerOutput, tokens_T: Tensor) -> None:
        """Replaces each -1 by the token sampled in the last step, on the device. Rank 0 broadcasts them."""
        ends = itertools.accumulate(len(piece.tokens) for piece in scheduled.sequences)
        waiting = [
            (end - 1 - piece.num_draft_tokens, piece.seq_id)
            for end, piece in zip(ends, scheduled.sequences, strict=True)
            if piece.tokens[-1 - piece.num_draft_tokens] < 0
        ]
        if not waiting:
            return
        rows = to_device([row for row, _ in waiting], self._device)
        tokens_T[rows] = self._tp.broadcast(self._last_tokens([seq_id for _, seq_id in waiting]))

    def _last_tokens(self, seq_ids: list[int]) -> Tensor:
        """The tokens sampled in the last step at rank 0; elsewhere as many zeros."""
        if self._tp.rank:
            return torch.zeros(len(seq_ids), dtype=torch.int64, device=self._device)
        assert self._sampled is not None
        at = {seq_id: row for row, seq_id in enumerate(self._sampled.seq_ids)}
        return self._sampled.tokens[to_device([at[seq_id] for seq_id in seq_ids], self._device)]

    def rest(self) -> None:
        if self.cores is not None:
            self.cores.rest()

    def close(self) -> None:
        self._aside.shutdown()
        if self._graphs is not None:
            self._graphs.close()
        for connector in (self.connector, self.state_connector):
            if connector is not None:
                connector.close()
        if self.cores is not None:
            self.cores.close()
