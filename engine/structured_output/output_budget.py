"""Budget-constrained decoding (`fit`): keeps an answer finishable within its tokens.

A token is taken as it was chosen if the rest can be finished after it, and else replaced by the next one of the known
way. So what was promised at admission holds to the end. All of it is a function of the tokens alone: an answer that
moves to another engine goes on exactly.
"""

from llguidance import LLMatcher

from engine.structured_output.shortest_completion import CompletionFinder

__all__ = ["OutputBudget"]

MAX_ENDS = 100  # of the known way that are tried, short ones and long ones
EFFORT = 1_500  # steps of one search, some 30 ms at worst


class OutputBudget:
    """Works beside a matcher, which its owner moves on."""

    def __init__(self, finder: CompletionFinder, grammar: str, plan: tuple[int, ...], end_ids: tuple[int, ...]) -> None:
        """`plan` finishes the grammar from where the matcher stands, the end token last."""
        self._finder = finder
        self._grammar = grammar
        self._whole = plan
        self._plan = plan
        self._end_ids = end_ids
        self._settled: tuple[int, tuple[int, ...]] | None = None  # what `settle` said, and the plan after it

    def anew(self) -> "OutputBudget":
        """For an answer that has not begun."""
        return OutputBudget(self._finder, self._grammar, self._whole, self._end_ids)

    @property
    def num_needed(self) -> int:
        """Tokens that certainly finish the answer, the end token too."""
        return len(self._plan)

    @property
    def next_token(self) -> int:
        return self._plan[0]

    def settle(self, matcher: LLMatcher, token: int, room: int) -> int:
        """The token to take in place of a chosen one, mostly that one. `room`: tokens that may come, it included."""
        plan = self._plan_after(matcher, token, room - 1)
        if plan is None:
            token, plan = self._plan[0], self._plan[1:]
        self._settled = token, plan
        return token

    def consume(self, matcher: LLMatcher, token: int, room: int) -> bool:
        """Takes a token, before the matcher does. False for one after which the answer cannot be finished."""
        if self._settled is None or self._settled[0] != token:
            self.settle(matcher, token, room)
        assert self._settled is not None
        settled, plan = self._settled
        if settled != token:
            return False
        self._plan, self._settled = plan, None
        return True

    def _plan_after(self, matcher: LLMatcher, token: int, room: int) -> tuple[int, ...] | None:
        """A way to the end after a token that is no longer than `room`, if one is found."""
        plan = self._plan
        if not plan:  # nothing can follow but more end tokens
            return ()
        if token == plan[0]:
            return plan[1:]
        if not matcher.validate_tokens([token]):
            return None
        if token in self._end_ids:
            return ()
        # the end of the known way often does: a longer string is closed as the shorter one was
        nexts = {one for one in set(plan) if matcher.validate_tokens([token, one]) == 2}
        sizes = [size for size in range(1, min(len(plan), room) + 1) if plan[-size] in nexts]
        for size in sizes if len(sizes) <= 2 * MAX_ENDS else [*sizes[:MAX_ENDS], *sizes[-MAX_ENDS:]]:
            if matcher.validate_tokens([token, *plan[-size:]]) == size + 1:
                return plan[-size:]
        if room < len(plan):
            return None  # with no room to spare the known way is taken
        ahead = matcher.deep_copy()
        if not ahead.consume_token(token):
            return None
        found = self._finder.find(ahead, self._grammar, EFFORT, enough=room)
        return found if found is not None and len(found) <= room else None
