"""An engine without a model: logits are noise, a function of position and last token. All else is the real one."""

import torch

from engine.engine import Engine
from engine.execution.executor import Executor
from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.structured_output.grammar import TokenTable, Vocabulary
from kernels.kernel_set import load_kernels
from serve_app.model.text_model import TextModel

__all__ = ["RandomExecutor", "random_engine", "table_of"]


def table_of(model: TextModel) -> TokenTable:
    words = model.vocabulary
    vocabulary = Vocabulary(words.all_bytes, tuple(sorted(words.special_ids)), model.eos_ids)

    def encode(data: bytes) -> list[int]:
        return list(model.encode_inner(data.decode("utf-8", "replace")))

    return TokenTable(vocabulary, words.num_tokens, encode)


class RandomExecutor(Executor):
    def __init__(self, model: TextModel) -> None:
        cpu = torch.device("cpu")
        self.vocab_size = model.vocabulary.num_tokens
        self.max_model_len = model.max_model_len
        self.block_size = 16
        self.num_blocks = 1024
        self._sampler = Sampler(load_kernels(cpu, torch.float32), self.vocab_size, cpu, table_of(model))

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        self._sampler.update(plan)
        rows = [torch.empty(0, self.vocab_size)]
        for piece in plan.sequences:
            places = [
                *range(len(piece.scored)),
                *range(len(piece.tokens) - (1 + piece.num_draft_tokens) * piece.samples, len(piece.tokens)),
            ]
            rows += [self.noise(piece.start + place + 1, piece.tokens[place])[None] for place in places]
        bits = self._sampler.grammar_bits(plan) if self._sampler.has_grammar(plan) else None
        return self._sampler.sample(plan, torch.cat(rows), bits)

    def close(self) -> None:
        pass

    def noise(self, position: int, token: int) -> torch.Tensor:
        """The logits of the token at a position, after a token."""
        return torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(position * 100_003 + token)) * 3


def random_engine(model: TextModel) -> Engine:
    return Engine(RandomExecutor(model), model.name)
