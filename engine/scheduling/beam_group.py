"""The beams of one request: the request of each beam's step, and the answers at the end of the beam search."""

import msgspec

from engine.scheduling.beam_search import BeamSearch
from engine.types import GenerateRequest, RequestOutput, TokenLogprob

__all__ = ["BeamGroup", "one_step_of"]


class BeamGroup:
    def __init__(self, request: GenerateRequest, first: int, room: int) -> None:
        """first   the sequence that computes the prompt
        room    tokens that an answer may have
        """
        assert request.beam is not None
        sampling = request.sampling
        self.request = request
        self.search = BeamSearch(
            request.beam,
            first,
            frozenset(sampling.stop_token_ids),
            sampling.min_tokens,
            min(sampling.max_tokens, room),
        )

    def chunks(self, cached_tokens: int) -> list[RequestOutput]:
        """The answers, once the search is over."""
        return [
            RequestOutput(
                request_id=self.request.request_id,
                index=index,
                start=0,
                tokens=answer.tokens,
                finish_reason=answer.reason,
                logprobs=self._wanted(answer.logprobs),
                cached_tokens=cached_tokens,
            )
            for index, answer in enumerate(self.search.answers[: self.request.n])
        ]

    def _wanted(self, logprobs: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...] | None:
        most = self.request.sampling.num_logprobs
        if most is None:
            return None
        return tuple(TokenLogprob(one.token, one.logprob, one.top[:most]) for one in logprobs)


def one_step_of(request: GenerateRequest) -> GenerateRequest:
    """The request of each beam: one step that returns its most likely continuations."""
    assert request.beam is not None
    sampling = request.sampling
    return msgspec.structs.replace(
        request,
        sampling=msgspec.structs.replace(
            sampling,
            temperature=0.0,
            min_tokens=0,  # BeamSearch applies it
            stop_token_ids=(),
            # enough if all but the last `width` are stop tokens
            num_logprobs=request.beam.width + len(set(sampling.stop_token_ids)),
            scores_filtered=True,
            logprob_token_ids=(),
            num_prompt_logprobs=None,
            thinking=None,
            repetition=None,
        ),
        resume=(),
        grammar=None,
    )
