"""A grammar that takes long to compile holds up no step; what becomes of its request is always told."""

import queue
import threading

import pytest

from engine.engine import Engine
from engine.runtime.engine_thread import Abort, Ask, EngineThread, Submit
from tests.engine.toy import ToyExecutor, request

WAIT_S = 10


class SlowToCompile(ToyExecutor):
    def __init__(self) -> None:
        super().__init__(step_s=0.001)
        self.compiling, self.may_go_on = threading.Event(), threading.Event()
        self.raises = False

    def compile_grammar(self, text):
        self.compiling.set()
        assert self.may_go_on.wait(WAIT_S)
        if self.raises:
            raise ValueError("no grammar")


class Running:
    def __init__(self) -> None:
        self.executor = SlowToCompile()
        self.reports: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = EngineThread(Engine(self.executor, "toy"), self.reports.put)
        self.thread.start()

    def until(self, holds):
        """The first thing that `holds` finds in a report."""
        while True:
            found = holds(self.reports.get(timeout=WAIT_S))
            if found:
                return found

    def submit(self, name, **fields):
        self.thread.send(Submit(request(name, [1, 2, 3], **fields)))

    def submit_slow(self, name="slow"):
        self.submit(name, max_tokens=5, grammar_ends=1000)
        assert self.executor.compiling.wait(WAIT_S)


@pytest.fixture
def running():
    running = Running()
    yield running
    running.executor.may_go_on.set()
    running.thread.close()


def ends_of(name):
    return lambda report: [one for one in report.chunks if one.request_id == name and one.finish_reason]


def refusals_of(name):
    return lambda report: [one for one in report.rejected if one.request_id == name]


def test_others_are_answered_while_a_grammar_is_compiled(running):
    running.submit_slow()
    running.submit("other", max_tokens=20)
    (end,) = running.until(ends_of("other"))
    assert end.finish_reason == "length" and not running.executor.may_go_on.is_set()
    running.executor.may_go_on.set()
    assert running.until(lambda report: "slow" in report.accepted)
    assert running.until(ends_of("slow"))


def test_a_request_whose_grammar_is_compiled_is_running(running):
    running.submit_slow()
    running.thread.send(Ask("slow"))
    running.thread.send(Ask("nobody"))
    states = []
    while len(states) < 2:
        states += running.until(lambda report: list(report.states))
    assert [(one.request_id, one.state) for one in states] == [("slow", "running"), ("nobody", "unknown")]


def test_one_that_is_aborted_meanwhile_is_never_begun(running):
    running.submit_slow()
    running.thread.send(Abort("slow"))
    running.executor.may_go_on.set()
    running.submit("other", max_tokens=3)
    while True:
        report = running.reports.get(timeout=WAIT_S)
        assert "slow" not in report.accepted
        if ends_of("other")(report):
            break
    running.thread.send(Ask("slow"))
    assert [one.state for one in running.until(lambda report: report.states)] == ["unknown"]


def test_a_second_one_with_the_same_id_is_refused(running):
    running.submit_slow()
    running.submit("slow", max_tokens=5)
    (rejection,) = running.until(refusals_of("slow"))
    assert rejection.kind == "RequestError" and rejection.param == "request_id"
    running.executor.may_go_on.set()
    assert running.until(ends_of("slow"))


def test_a_compiler_that_raises_leaves_the_request_to_the_engine(running):
    running.executor.raises = True
    running.submit_slow()
    running.executor.may_go_on.set()
    assert running.until(ends_of("slow"))


def test_one_that_waits_when_the_engine_fails_is_refused(running):
    running.submit_slow()
    running.executor.fails_at = 0
    running.submit("other", max_tokens=3)
    (rejection,) = running.until(refusals_of("slow"))
    assert rejection.kind == "Unavailable"


def test_one_that_waits_when_the_engine_ends_is_refused():
    running = Running()
    running.submit_slow()
    closing = threading.Thread(target=running.thread.close)
    closing.start()
    (rejection,) = running.until(refusals_of("slow"))
    assert rejection.kind == "Unavailable" and "shutting down" in rejection.message
    running.executor.may_go_on.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
