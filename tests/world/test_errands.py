"""Work that may be given up: nobody waits for what hangs, and it changes nothing afterwards."""

import threading
from itertools import count

import pytest

from dalsegno.world import errands
from dalsegno.world.errands import Errand, Fence, GivenUp, are_left, look_at_each


def test_one_name_that_hangs_keeps_no_other_from_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: a look at many places that ends at the first that does not answer."""
    answers = threading.Event()
    hung = threading.Event()
    ticks = count()
    # The clock runs fast while something hangs that was not left yet, and stands still otherwise.
    monkeypatch.setattr(errands, "ticks_ns", lambda: 10**15 * next(ticks) if hung.is_set() and not are_left() else 0)

    def look(name: str) -> int:
        if name == "b":
            hung.set()
            answers.wait()
        return len(name)

    found, silent = look_at_each(["a", "b", "ccc"], look, seconds=3600)
    assert found == {"a": 1, "ccc": 3} and silent == ["b"] and hung.is_set() and are_left()
    answers.set()
    for errand in errands._left:
        errand.result()
    assert not are_left()


def test_what_a_look_raises_is_raised() -> None:
    def look(name: str) -> int:
        raise ValueError(name)

    with pytest.raises(ValueError, match="a"):
        look_at_each(["a", "b"], look, seconds=10**9)


def test_a_step_is_done_whole_before_its_fence_is_shut_or_not_at_all() -> None:
    """Kind: work that was given up, and goes on afterwards."""
    fence, within, go_on = Fence(), threading.Event(), threading.Event()
    order: list[str] = []

    def work() -> None:
        with fence.holding(lambda: order.append("let go")):
            with fence.step():
                within.set()
                go_on.wait()
                order.append("done")
            go_on.clear()
            with fence.step():
                order.append("never")

    errand = Errand(work)
    within.wait()
    shutting = Errand(fence.shut)
    assert not shutting.is_done
    go_on.set()
    shutting.result()
    # The second step may have begun before it was shut, or was refused; never did it happen behind it.
    try:
        errand.result()
    except GivenUp:
        assert order == ["done", "let go"]
    else:
        assert order[:2] == ["done", "never"]
    with pytest.raises(GivenUp):
        fence.require_open()
