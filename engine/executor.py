"""Computes what a plan says."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from engine.batch import ForwardBatch
from engine.decode_graphs import DecodeGraphs
from engine.kv_store import KVStore
from engine.model.decoder import Decoder
from engine.plan import StepPlan, StepResult
from engine.sampler import Sampler

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """One rank, in the caller's thread."""

    def __init__(
        self,
        decoder: Decoder,
        kv: KVStore,
        sampler: Sampler,
        max_context_len: int,
        device: torch.device,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        """`graphs` are of this decoder and this KV store; None: every step is launched kernel by kernel."""
        self.vocab_size = decoder.arch.vocab_size
        self.max_context_len = max_context_len
        self.block_size = kv.block_size
        self.num_blocks = kv.num_blocks
        self._decoder = decoder
        self._kv = kv
        self._sampler = sampler
        self._device = device
        self._graphs = graphs
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="grammar")  # beside the forward pass

    def execute(self, plan: StepPlan) -> StepResult:
        self._kv.copy(plan.copies)
        self._sampler.update(plan)
        if not plan.slices:
            return StepResult(())
        if not self._sampler.has_grammar(plan):
            return self._sampler.sample(plan, self._forward(plan))
        bits = self._aside.submit(self._sampler.grammar_bits, plan)
        logits_RV = self._forward(plan)
        return self._sampler.sample(plan, logits_RV, bits.result())

    def follow(self, plan: StepPlan) -> None:
        """The forward pass alone: what a rank does that does not sample."""
        self._kv.copy(plan.copies)
        self._forward(plan)

    def _forward(self, plan: StepPlan) -> Tensor:
        """[R, V] logits."""
        if self._graphs is not None and self._graphs.fits(plan):
            return self._decoder.logits(self._graphs.hidden(plan))
        batch = ForwardBatch.from_plan(plan, self.block_size, self._device)
        return self._decoder.forward(batch, self._kv)

    def close(self) -> None:
        self._aside.shutdown()
