"""The frozen heap: full collections pass over it, and still find later garbage."""

import gc
import subprocess
import sys
import weakref

from engine.execution.gc_heap import freeze_gc_heap
from tests.readme import ROOT


class Node:
    """Part of a reference cycle."""

    def __init__(self) -> None:
        self.myself = self


def test_what_was_there_is_no_longer_gone_through_and_later_garbage_is_freed() -> None:
    kept = Node()
    freeze_gc_heap()
    assert gc.is_tracked(kept) and all(one is not kept for one in gc.get_objects())
    later = weakref.ref(Node())
    gc.collect()
    assert later() is None


def test_garbage_is_not_frozen() -> None:
    before = weakref.ref(Node())
    freeze_gc_heap()
    assert before() is None


def test_an_ingress_can_freeze_its_heap_without_torch() -> None:
    code = "import sys, engine.execution.gc_heap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
