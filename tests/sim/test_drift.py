"""Clocks that drift: queues slip as predicted, and neither run dry nor grow."""

from __future__ import annotations

import os

import pytest

from anonnet.sim.drift import drift

FULL = bool(os.environ.get("ANONNET_FULL"))
LONG = ("modem", 8, 1) if FULL else ("9600:wide", 8, 0.75)  # the slowest link has few slots to spare


@pytest.mark.timeout(3600 if FULL else 600)
@pytest.mark.parametrize(
    ("how", "ppm"),
    [
        (LONG, (100, -100, -100, 100)),
        *([(LONG, (-100, 100, 100, -100)), (LONG, (100, -100, 100, -100))] if FULL else []),
        (("modem", 0.25, 1), (800, -800, 800, -800)),
    ],
)
def test_slips_are_as_predicted(how: tuple[str, float, float], ppm: tuple[int, ...]) -> None:
    ran = drift(how[0], how[1], ppm, how[2])
    assert len(ran.queues) == 4
    assert ran.well, ran.queues
    assert max(queue.predicted for queue in ran.queues) > 2, "there was something to make up for"
    assert all(queue.missing < 0.01 * queue.received + 60 for queue in ran.queues), "none ran dry"
    assert min(ran.out, ran.back) >= 0.97 * ran.sent


def test_true_clocks_never_slip() -> None:
    ran = drift("9600:narrow", 0.25, (0, 0, 0, 0), 0.75)
    assert [queue.slips for queue in ran.queues] == [0] * 4
    assert ran.out >= ran.sent - 1
