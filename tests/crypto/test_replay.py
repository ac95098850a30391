"""The replay window against the plainest model: a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anonnet.crypto.replay import WINDOW
from anonnet.proto.engine import Engine


class Model:
    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= max(self.seen, default=-1) - WINDOW:
            return False
        self.seen.add(counter)
        return True


def jumps() -> st.SearchStrategy[list[int]]:
    near = st.integers(-3, 3)
    edge = st.integers(-WINDOW - 2, -WINDOW + 2) | st.integers(WINDOW - 2, WINDOW + 2)
    return st.lists(st.just(1) | near | edge | st.integers(-(2**63), 2**62), max_size=80)


@given(start=st.integers(0, 2**63), steps=jumps())
def test_same_as_a_set(engine: Engine, start: int, steps: list[int]) -> None:
    window, model = engine.replay_window(), Model()
    counter = start
    for step in steps:
        counter = min(max(counter + step, 0), 2**64 - 1)
        assert window.accept(counter) == model.accept(counter)


def test_in_order_then_every_replay(engine: Engine) -> None:
    window = engine.replay_window()
    assert all(window.accept(i) for i in range(3 * WINDOW))
    assert not any(window.accept(i) for i in range(3 * WINDOW))


def test_whole_window_backwards(engine: Engine) -> None:
    window = engine.replay_window()
    top = 5 * WINDOW
    assert all(window.accept(top - i) for i in range(WINDOW))
    assert not window.accept(top - WINDOW)


def test_ends_of_the_counter(engine: Engine) -> None:
    window = engine.replay_window()
    assert window.accept(2**64 - 1)
    assert not window.accept(0)  # and no integer of 2^64 bits is made
    assert not window.accept(2**64 - 1)
