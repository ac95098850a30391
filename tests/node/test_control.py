"""The control process when much comes at once: users have their turn, alarms wait for what is here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anonnet.node import control
from anonnet.node.control import OVERDUE_NS, SLICE_NS, Control
from anonnet.proto import orders as o


class Core:
    """Stands in for the core; each report that it takes in takes `cost` ns."""

    def __init__(self, cost: int) -> None:
        self.clock = 10**12
        self.cost = cost
        self.heard: list[int] = []
        self.alarms: list[int] = []  # how much had been heard when they went off
        self.guard_changed, self.ends, self.links = False, None, dict[int, Any]()

    def on_report(self, report: o.RouteGone, now: int) -> None:
        assert now == self.clock
        self.heard.append(report.route)
        self.clock += self.cost

    def on_deadline(self, now: int) -> None:
        self.alarms.append(len(self.heard))

    def take_orders(self) -> list[o.Order]:
        return []

    def next_deadline(self) -> int | None:
        return None


class Pipe:
    """Stands in for the pipe: `coming` is a list for each look."""

    def __init__(self, *coming: list[o.Report]) -> None:
        self.coming = deque(coming)

    def receive(self) -> list[o.Report]:
        return self.coming.popleft() if self.coming else []

    def flush(self) -> bool:
        return True


@pytest.fixture
def begin(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Core, Pipe], tuple[Control, list[Callable[[], None]]]]:
    def begin(core: Core, pipe: Pipe) -> tuple[Control, list[Callable[[], None]]]:
        soon: list[Callable[[], None]] = []
        monkeypatch.setattr(Control, "now", staticmethod(lambda: core.clock))
        monkeypatch.setattr(control.kept, "save_changes", lambda *_: None)
        parts: dict[str, Any] = {
            "node": core, "_pipe": pipe, "_heard": deque(), "_acted": core.clock, "_timer": None,
            "_settling": False,
            "_loop": SimpleNamespace(call_soon=soon.append), "_given": SimpleNamespace(guard_dir=Path("/")),
        }  # fmt: skip
        one = Control.__new__(Control)
        one.__dict__.update(parts)
        return one, soon

    return begin


def gone(number: int) -> list[o.Report]:
    return [o.RouteGone(route) for route in range(number)]


def test_what_takes_long_is_taken_in_by_slices(begin: Any) -> None:
    core, pipe = Core(SLICE_NS // 4), Pipe(gone(10), gone(3))
    one, soon = begin(core, pipe)
    one._on_reports()
    assert len(core.heard) == 4
    assert not core.alarms, "what waits may be what they would ask for"
    one._on_reports()  # the pipe is ready all the time
    assert (len(core.heard), len(pipe.coming)) == (4, 1), "what does not fit stays in the pipe"
    while soon:
        soon.pop()()
    assert core.heard == list(range(10))
    assert core.alarms == [10]
    one._on_reports()
    assert len(core.heard) == 13


def test_what_is_quick_is_taken_in_at_once(begin: Any) -> None:
    core = Core(SLICE_NS // 1000)
    one, soon = begin(core, Pipe(gone(100)))
    one._on_reports()
    assert (len(core.heard), core.alarms, soon) == (100, [100], [])


def test_alarms_do_not_wait_for_ever(begin: Any) -> None:
    """As under a flood of first handshakes: links must still be rekeyed, and found dead."""
    core = Core(SLICE_NS)
    one, soon = begin(core, Pipe(gone(OVERDUE_NS // SLICE_NS * 2)))
    one._on_reports()
    while soon:
        soon.pop()()
    assert core.alarms == [OVERDUE_NS // SLICE_NS + 1, len(core.heard)]
