"""Which relays are corrupt, which are up, and the lists of them that callers keep.

Arrays have one row for each caller; times are in steps of the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anonnet.sim.adversary.model import STEPS_PER_DAY, Kept, Network

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Relays:
    """The relays that each caller may draw from, so many of them corrupt."""

    def __init__(self, network: Network, corrupt: Floats, random: np.random.Generator) -> None:
        self.count = network.relays
        self.bad = np.rint(corrupt * network.relays)
        self.random = random
        self._network = network

    def draw(self, rows: Ints, known: NDArray[np.integer], of: int) -> Bools:
        """Draw one more for each of these callers, of whose `of` nodes `known` are corrupt; tell if it is."""
        result: Bools = self.random.random(len(rows)) < (self.bad[rows] - known) / (self.count - of)
        return result

    def until_failure(self, shape: tuple[int, ...], relays: int = 1) -> Floats:
        """Draw for how long so many honest relays all stay up."""
        chance = relays * self._network.failures
        return self.random.exponential(1 / chance, shape) if chance else np.full(shape, np.inf)

    def until_return(self, shape: tuple[int, ...]) -> Floats:
        """Draw for how long one that has failed is away."""
        return self.random.exponential(1 / self._network.returns, shape)


class KeptNodes:
    """A list for each caller, used in order; each node is replaced when its time is over.

    corrupt, up: arrays of callers by places.
    """

    def __init__(self, kept: Kept, relays: Relays) -> None:
        self._relays, (self._least, self._most) = relays, kept.days
        shape = len(relays.bad), kept.count
        every = np.arange(shape[0])
        self.corrupt = np.zeros(shape, bool)
        for place in range(kept.count):
            self.corrupt[:, place] = relays.draw(every, self.corrupt.sum(axis=1), place)
        self.up = np.ones(shape, bool)
        self._turns = np.where(self.corrupt, np.inf, relays.until_failure(shape))  # fails, or returns
        # Who is met in the middle of a life has a long one: its density grows with its length.
        random = relays.random.random
        lives = np.sqrt(self._least**2 + (self._most**2 - self._least**2) * random(shape))
        self._ends = lives * random(shape) * STEPS_PER_DAY
        self._last_until = np.full(shape, -np.inf)  # comes last until then

    def step(self, now: int) -> tuple[Bools, Bools]:
        """Let it be `now`; return who is gone since (by place), and which callers have cause to look."""
        turned, over = self._turns <= now, self._ends <= now
        changed: Bools = (turned | over | (self._last_until == now)).any(axis=1)
        self.up ^= turned
        gone = (turned & ~self.up) | over
        at = np.nonzero(turned)
        away = self._relays.until_return(at[0].shape)
        self._turns[at] = now + np.where(self.up[at], self._relays.until_failure(at[0].shape), away)
        at = np.nonzero(over)
        if len(at[0]):
            self._replace(at, now)
        return gone, changed

    def _replace(self, at: tuple[NDArray[np.intp], ...], now: int) -> None:
        rows, size = at[0], at[0].shape
        self.corrupt[at] = False
        corrupt = self._relays.draw(rows, self.corrupt[rows].sum(axis=1), self.up.shape[1] - 1)
        self.corrupt[at], self.up[at], self._last_until[at] = corrupt, True, -np.inf
        self._turns[at] = np.where(corrupt, np.inf, now + self._relays.until_failure(size))
        lives = self._least + (self._most - self._least) * self._relays.random.random(size)
        self._ends[at] = now + lives * STEPS_PER_DAY

    def first(self, rows: Ints, count: int, now: int) -> Ints:
        """Return the first places of these lists: who is down, or did not serve of late, comes last."""
        last = 2 * ~self.up[rows] + (self._last_until[rows] > now)
        return np.argsort(last, axis=1, kind="stable")[:, :count]

    def judge(self, rows: Ints, places: Ints, served: Bools, until: int) -> None:
        """Put those that did not serve last until then, and back in their places those that did."""
        self._last_until[rows, places] = np.where(served, -np.inf, until)
