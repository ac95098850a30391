"""The adversary model: closed forms against counting, and played months against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from anonnet.sim.adversary import theory
from anonnet.sim.adversary.model import Attack, Kept, Network, Policy
from anonnet.sim.adversary.month import play

QUIET = Network(relays=100_000, up_days=1e9)  # nothing fails, and draws hardly depend on one another
FOR_EVER = (1e6, 2e6)


def test_pairs_of_fixed_lists_with_an_adversary_who_only_watches() -> None:
    policy = Policy(2, guards=Kept(2, FOR_EVER), exits=Kept(1, FOR_EVER))
    callers, c = 20_000, 0.2
    month = play(policy, QUIET, Attack.WATCH, np.full(callers, c), seed=1, days=0.05)
    expected = theory.pairs(theory.some(c, 2), c)
    assert month.ever.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / callers))
