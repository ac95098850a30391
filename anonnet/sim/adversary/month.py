"""Play a month: many callers at once, in steps of ten minutes, against one adversary.

Every array has one row for each caller. In a step relays fail and return; whoever has no open route looks
for an exit; then each route is replaced by a new one, make before break: a route that stands is let go of
only when its successor stands, so that killing successors only keeps it longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anonnet.sim.adversary.model import (
    DAYS,
    SKIP_STEPS,
    STEP_SECONDS,
    STEPS_PER_DAY,
    Attack,
    Kept,
    Network,
    Policy,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRIES: Final = 25  # of a route in a step, without a budget: each retry twice as late, up to 30 s
EXIT_TRIES: Final = 5  # of each route before a circuit without any is given up, after 10 s
EXITS_A_STEP: Final = 20  # circuits begun and given up in a step, one at each retry after 30 s
NEVER: Final = -1.0


@dataclass(frozen=True, slots=True)
class Month:
    """What became of each caller (arrays of one entry each).

    first: day on which its circuit was first compromised, or NEVER. compromised, up: share of the time in
    which it was, and in which the circuit had an open route. builds: routes begun. exits: circuits begun.
    """

    first: Floats
    compromised: Floats
    up: Floats
    builds: Ints
    exits: Ints

    @property
    def ever(self) -> Bools:
        """Whose circuit was compromised at some time."""
        result: Bools = self.first != NEVER
        return result

    def by(self, days: Floats) -> Floats:
        """Return the share of callers compromised by each of these days."""
        when = np.sort(self.first[self.ever])
        return np.searchsorted(when, days, side="right") / len(self.first)


def play(
    policy: Policy, network: Network, attack: Attack, corrupt: Floats, seed: int, days: float = DAYS
) -> Month:
    """Play some days for callers each of whom meets its own share of corrupt relays (0 to 1)."""
    return _Play(policy, network, attack, corrupt, np.random.default_rng(seed)).run(days)


class _Nodes:
    """A kept list of nodes for each caller, used in order, each replaced when its time is over.

    skip: steps for which one that failed comes last.
    """

    def __init__(self, kept: Kept, play: _Play) -> None:
        self._play, (self._least, self._most) = play, kept.days
        shape = len(play.bad), kept.count
        self.corrupt = np.zeros(shape, bool)
        for i in range(kept.count):
            self.corrupt[:, i] = play.draw(self.corrupt.sum(axis=1), i)
        self.up = np.ones(shape, bool)
        self.skip = np.zeros(shape, np.int64)
        # Who is met in the middle of a life has a long one: its density grows with its length.
        spread = self._most**2 - self._least**2
        lives = np.sqrt(self._least**2 + spread * play.random(shape))
        self._left = lives * play.random(shape) * STEPS_PER_DAY

    def step(self) -> Bools:
        """Let ten minutes pass; return who failed or was replaced."""
        play, network = self._play, self._play.network
        changes = play.random(self.up.shape) < np.where(self.up, network.failures, network.returns)
        self.up ^= changes & ~self.corrupt
        gone = ~self.up
        self.skip -= self.skip > 0
        self._left -= 1
        for row, i in np.argwhere(self._left <= 0):
            self.corrupt[row, i] = False
            self.corrupt[row, i] = play.draw(self.corrupt.sum(axis=1), self.up.shape[1] - 1)[row]
            self.up[row, i], gone[row, i], self.skip[row, i] = True, True, 0
            life = self._least + (self._most - self._least) * play.random(())
            self._left[row, i] += life * STEPS_PER_DAY
        return gone

    def first(self, rows: Ints, count: int) -> Ints:
        """Return the first places of these callers' lists: who is down or failed comes last."""
        last = 2 * ~self.up[rows] + (self.skip[rows] > 0)
        return np.argsort(last, axis=1, kind="stable")[:, :count]


class _Play:
    def __init__(
        self, policy: Policy, network: Network, attack: Attack, corrupt: Floats, random: np.random.Generator
    ) -> None:
        self.network, self.random = network, random.random
        self._policy, self._attack = policy, attack
        self.bad = np.rint(corrupt * network.relays)
        size, shape = len(corrupt), (len(corrupt), policy.routes)
        self._guards = _Nodes(policy.guards, self) if policy.guards else None
        self._via = np.tile(np.arange(policy.routes), (size, 1))  # which guard each route begins with
        self._exits = _Nodes(policy.exits, self) if policy.exits else None
        self._exit = np.full(size, -1)  # place in the list, 0 without a list, -1: none
        self._exit_bad = np.zeros(size, bool)
        self._open = np.zeros(shape, bool)
        self._entry_bad = np.zeros(shape, bool)
        budget = policy.budget
        self._tokens = np.full(size, budget.builds if budget else np.inf)
        self._exit_tokens = np.full(size, budget.exits if budget else np.inf)
        self._honest = np.ones((size, 1))  # chance of no corrupt relay between honest ends
        for i in range(policy.hops - 2):
            self._honest *= 1 - self.bad[:, None] / (network.relays - 2 - i)
        self._builds = np.zeros(size, np.int64)
        self._begun = np.zeros(size, np.int64)

    def draw(self, corrupt: NDArray[np.integer], of: int) -> Bools:
        """Draw one more relay for each caller, of whose `of` others so many are corrupt; tell if it is."""
        result: Bools = self.random(len(self.bad)) < (self.bad - corrupt) / (self.network.relays - of)
        return result

    def run(self, days: float) -> Month:
        steps = round(days * STEPS_PER_DAY)
        size = len(self.bad)
        first = np.full(size, NEVER)
        compromised, up = np.zeros(size), np.zeros(size)
        every = np.arange(size)
        for step in range(steps):
            self._fail()
            self._seek_exit()
            self._build(every, TRIES, planned=1)
            exposed = (self._open & self._entry_bad).any(axis=1) & self._exit_bad
            first[exposed & (first == NEVER)] = step / STEPS_PER_DAY
            compromised += exposed
            up += self._open.any(axis=1)
        return Month(first, compromised / steps, up / steps, self._builds, self._begun)

    def _fail(self) -> None:
        network, policy = self.network, self._policy
        drawn = policy.hops - 2 if self._guards else policy.hops - 1  # relays of a route that no list holds
        self._open &= self.random(self._open.shape) >= drawn * network.failures
        if self._guards:
            self._open &= ~np.take_along_axis(self._guards.step(), self._via, 1)
            self._via = self._guards.first(np.arange(len(self.bad)), policy.routes)
        if self._exits:
            gone = np.take_along_axis(self._exits.step(), np.maximum(self._exit, 0)[:, None], 1)[:, 0]
        else:
            gone = ~self._exit_bad & (self.random(len(self.bad)) < network.failures)
        self._open[gone] = False
        self._exit[gone] = -1
        if budget := policy.budget:
            refill = policy.routes * STEP_SECONDS / budget.build_seconds
            self._tokens = np.minimum(self._tokens + refill, budget.builds)
            refill = STEP_SECONDS / budget.exit_seconds
            self._exit_tokens = np.minimum(self._exit_tokens + refill, budget.exits)

    def _seek_exit(self) -> None:
        """Try the exit that was, then begin circuits until one opens, time is over, or no tokens are left."""
        rows = np.flatnonzero(~self._open.any(axis=1))
        self._try_exit(rows)
        rows = rows[~self._open[rows].any(axis=1)]
        if self._exits:
            rows = rows[self._exit[rows] >= 0]
            self._exits.skip[rows, self._exit[rows]] = SKIP_STEPS
        self._exit[~self._open.any(axis=1)] = -1
        for _ in range(self._policy.exits.count if self._policy.exits else EXITS_A_STEP):
            rows = np.flatnonzero((self._exit < 0) & (self._tokens >= 1))
            if self._exits:
                place = self._exits.first(rows, 1)[:, 0]
                rows, place = rows[self._exits.up[rows, place]], place[self._exits.up[rows, place]]
                self._exit[rows], self._exit_bad[rows] = place, self._exits.corrupt[rows, place]
            else:
                rows = rows[self._exit_tokens[rows] >= 1]
                known = self._guards.corrupt.sum(axis=1) if self._guards else np.zeros(len(self.bad), int)
                drawn = self.draw(known, self._guards.up.shape[1] if self._guards else 0)
                self._exit[rows], self._exit_bad[rows] = 0, drawn[rows]
                self._exit_tokens[rows] -= 1
            if not len(rows):
                return
            self._begun[rows] += 1
            self._try_exit(rows)
            rows = rows[~self._open[rows].any(axis=1)]
            if self._exits:
                self._exits.skip[rows, self._exit[rows]] = SKIP_STEPS
            self._exit[rows] = -1

    def _try_exit(self, rows: Ints) -> None:
        """Try the first guards on the list, then the next ones."""
        self._build(rows, EXIT_TRIES, planned=0)
        if self._guards and self._policy.in_turn:
            rows = rows[~self._open[rows].any(axis=1)]
            self._via[rows] = self._guards.first(rows, self._policy.routes)
            self._build(rows, EXIT_TRIES, planned=0)

    def _build(self, rows: Ints, tries: int, planned: int) -> None:
        """Begin a new route in place of each, again and again, until it stands or `tries` are used up.

        The first `planned` builds of each route do not wait for the budget.
        """
        rows = rows[self._exit[rows] >= 0]
        exit_bad = self._exit_bad[rows, None]
        honest = self._honest[rows]
        usable = np.ones((len(rows), 1), bool)
        entry_bad: Floats = (self.bad[rows, None] - exit_bad) / (self.network.relays - 1)
        if self._guards:
            via = self._via[rows]
            entry_bad = np.take_along_axis(self._guards.corrupt[rows], via, 1).astype(float)
            usable = np.take_along_axis(self._guards.up[rows], via, 1)
        by_bad = entry_bad * self._stands(True, exit_bad, honest)
        stands = (by_bad + (1 - entry_bad) * self._stands(False, exit_bad, honest)) * usable
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.log1p(-self.random(self._open[rows].shape)) / np.log1p(-stands)
        needed = np.where(stands > 0, np.maximum(np.ceil(needed), 1), np.inf)
        left = self._tokens[rows, None] / self._policy.routes
        allowed = np.minimum(tries, np.maximum(np.floor(left), planned)) * usable
        done = needed <= allowed
        spent = np.where(done, needed, allowed)
        self._tokens[rows] = np.maximum(self._tokens[rows] - spent.sum(axis=1), 0)
        self._builds[rows] += spent.sum(axis=1).astype(np.int64)
        if self._guards and self._policy.in_turn:
            before = np.take_along_axis(self._guards.skip[rows], via, 1)
            failed = ~done & (allowed > 0)
            self._guards.skip[rows[:, None], via] = np.where(failed, SKIP_STEPS, before * ~done)
        corrupt = self.random(done.shape) * stands < by_bad
        self._entry_bad[rows] = np.where(done, corrupt, self._entry_bad[rows])
        self._open[rows] |= done

    def _stands(self, entry_bad: bool, exit_bad: Bools, honest: Floats) -> Floats:
        """Return the chance that a route with such ends is left alone."""
        if self._attack is Attack.WATCH:
            return np.ones(exit_bad.shape)
        if entry_bad:
            return exit_bad.astype(float)
        return np.where(exit_bad, 1.0 if self._attack is Attack.WAIT else 0.0, honest)
