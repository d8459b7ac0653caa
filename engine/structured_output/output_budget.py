"""Budget-constrained decoding (`fit`): keeps an answer short enough to satisfy its grammar within its tokens.

The plan is a completion of the grammar that fits the remaining tokens. A sampled token is kept if a completion that
fits can be found behind it, and else replaced by the plan's next token. A function of the tokens alone, so it survives
request migration.
"""

import copy

from llguidance import LLMatcher

from engine.structured_output.shortest_completion import CompletionFinder

__all__ = ["OutputBudget"]

MAX_ENDS = 100  # suffixes of the plan that are tried, short ones and long ones
EFFORT = 1_500  # steps of one search, some 30 ms at worst


class OutputBudget:
    """One answer's plan. The matcher passed to each call is its owner's, who advances it after `consume`."""

    def __init__(self, finder: CompletionFinder, grammar: str, plan: tuple[int, ...], end_ids: tuple[int, ...]) -> None:
        """`plan` completes the grammar from the matcher's state, the end token last."""
        self._finder = finder
        self._grammar = grammar
        self._whole = plan
        self._plan = plan
        self._end_ids = end_ids
        # the token that `enforce_output_budget` returned last, and the plan after it
        self._last_decision: tuple[int, tuple[int, ...]] | None = None

    def restarted(self) -> "OutputBudget":
        """The budget of the same grammar at its start."""
        return OutputBudget(self._finder, self._grammar, self._whole, self._end_ids)

    def fork(self) -> "OutputBudget":
        return copy.copy(self)

    @property
    def num_needed(self) -> int:
        """Tokens of the plan, the end token included."""
        return len(self._plan)

    @property
    def next_token(self) -> int:
        return self._plan[0]

    def enforce_output_budget(self, matcher: LLMatcher, token: int, room: int) -> int:
        """The sampled token, or the plan's next one. `room`: tokens left, this one included."""
        plan = self._plan_after(matcher, token, room - 1)
        if plan is None:
            token, plan = self._plan[0], self._plan[1:]
        self._last_decision = token, plan
        return token

    def consume(self, matcher: LLMatcher, token: int, room: int) -> bool:
        """Advances the plan by a token, before the matcher. False if no completion that fits is known behind it."""
        if self._last_decision is None or self._last_decision[0] != token:
            self.enforce_output_budget(matcher, token, room)
        assert self._last_decision is not None
        kept, plan = self._last_decision
        if kept != token:
            return False
        self._plan, self._last_decision = plan, None
        return True

    def _plan_after(self, matcher: LLMatcher, token: int, room: int) -> tuple[int, ...] | None:
        """A completion behind `token` of at most `room` tokens, if one is found."""
        plan = self._plan
        if not plan:  # only end tokens can follow
            return ()
        if token == plan[0]:
            return plan[1:]
        if not matcher.validate_tokens([token]):
            return None
        if token in self._end_ids:
            return ()
        # a suffix of the plan often does: a longer string is closed as the shorter one was
        nexts = {one for one in set(plan) if matcher.validate_tokens([token, one]) == 2}
        sizes = [size for size in range(1, min(len(plan), room) + 1) if plan[-size] in nexts]
        for size in sizes if len(sizes) <= 2 * MAX_ENDS else [*sizes[:MAX_ENDS], *sizes[-MAX_ENDS:]]:
            if matcher.validate_tokens([token, *plan[-size:]]) == size + 1:
                return plan[-size:]
        if room < len(plan):
            return None  # no tokens to spare: the plan is kept
        ahead = matcher.deep_copy()
        if not ahead.consume_token(token):
            return None
        found = self._finder.find(ahead, self._grammar, EFFORT, enough=room)
        return found if found is not None and len(found) <= room else None
