"""Play a month: many callers at once, in steps of ten minutes, against one adversary.

In a step relays fail and return; whoever has no open route looks for an exit; then each route is replaced by
a new one, make before break: a route that stands is let go of only when its successor stands, so that killing
successors only keeps it longer. Callers whose routes are replaced by their like need no more than counting;
only the others are played. Arrays have one row for each caller.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np

from anonnet.sim.adversary.model import DAYS, SKIP_STEPS, STEP_SECONDS, STEPS_PER_DAY, Attack, Network, Policy
from anonnet.sim.adversary.relays import Bools, Floats, Ints, KeptNodes, Relays

TRIES: Final = 25  # of a route in a step, without a budget: each retry twice as late, up to 30 s
EXIT_TRIES: Final = 5  # of each route before a circuit without any is given up, after 10 s
EXITS_A_STEP: Final = 20  # circuits begun and given up in a step, one at each retry after 30 s
NEVER: Final = -1.0
NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Month:
    """What became of each caller (arrays of one entry each).

    first: day on which its circuit was first compromised, or NEVER. compromised, up: share of the time in
    which it was, and in which the circuit had an open route. builds: routes begun. exits: circuits begun.
    """

    first: Floats
    compromised: Floats
    up: Floats
    builds: Floats
    exits: Ints

    @property
    def ever(self) -> Bools:
        """Whose circuit was compromised at some time."""
        result: Bools = self.first != NEVER
        return result

    def parts(self, count: int) -> list[Month]:
        """Split it into so many months of as many callers each, in their order."""
        columns = zip(*(np.split(getattr(self, f.name), count) for f in fields(self)), strict=True)
        return [Month(*column) for column in columns]

    def by(self, days: Floats) -> Floats:
        """Return the share of callers compromised by each of these days."""
        when = np.sort(self.first[self.ever])
        return np.searchsorted(when, days, side="right") / len(self.first)


def play(
    policy: Policy, network: Network, attack: Attack, corrupt: Floats, seed: int, days: float = DAYS
) -> Month:
    """Play some days for callers each of whom meets its own share of corrupt relays (0 to 1)."""
    relays = Relays(network, corrupt, np.random.default_rng(seed))
    return _Play(policy, relays, attack).run(round(days * STEPS_PER_DAY))


class _Chances(NamedTuple):
    """Of the next route in each place: its guard, whether that is there, and chances between 0 and 1."""

    via: Ints
    usable: Bools
    held: Floats  # that it stands, with a corrupt first relay
    stands: Floats


class _Play:
    def __init__(self, policy: Policy, relays: Relays, attack: Attack) -> None:
        self._policy, self._relays, self._attack = policy, relays, attack
        size, shape = len(relays.bad), (len(relays.bad), policy.routes)
        self._every = np.arange(size)
        self._guards = KeptNodes(policy.guards, relays) if policy.guards else None
        self._exits = KeptNodes(policy.exits, relays) if policy.exits else None
        self._drawn = policy.hops - 2 if policy.guards else policy.hops - 1  # relays of a route on no list
        self._honest = np.ones((size, 1))  # chance of no corrupt relay between honest ends
        for i in range(policy.hops - 2):
            self._honest *= 1 - relays.bad[:, None] / (relays.count - 2 - i)
        self._open = np.zeros(shape, bool)
        self._entry_bad = np.zeros(shape, bool)
        self._via = np.zeros(shape, np.int64)
        self._fails = relays.until_failure(shape, self._drawn)
        self._exit = np.full(size, NONE)  # place in the list; without a list 0
        self._exit_bad = np.zeros(size, bool)
        self._exit_fails = relays.until_failure((size,))
        self._tokens = np.full(size, policy.budget.builds if policy.budget else np.inf)
        self._exit_tokens = np.full(size, policy.budget.exits if policy.budget else np.inf)
        self._builds = np.zeros(size)
        self._begun = np.zeros(size, np.int64)
        self._cost = np.zeros(size)  # builds in a step in which nothing changes
        self._restless = np.ones(size, bool)  # whose next step may change something by itself
        self._now = 0

    def run(self, steps: int) -> Month:
        size = len(self._every)
        first = np.full(size, NEVER)
        exposed: Bools = np.zeros(size, bool)
        up: Bools = np.zeros(size, bool)
        compromised, service = np.zeros(size), np.zeros(size)
        for self._now in range(steps):
            rows = np.flatnonzero(self._pass_time() | self._restless)
            self._seek_exit(rows)
            self._build(rows, TRIES, planned=1)
            self._settle(rows)
            up[rows] = self._open[rows].any(axis=1)
            exposed[rows] = (self._open[rows] & self._entry_bad[rows]).any(axis=1) & self._exit_bad[rows]
            fresh = rows[exposed[rows] & (first[rows] == NEVER)]
            first[fresh] = self._now / STEPS_PER_DAY
            compromised += exposed
            service += up
        return Month(first, compromised / steps, service / steps, self._builds, self._begun)

    def _pass_time(self) -> Bools:
        """Let relays fail and return, and tokens come; return for whom something has changed."""
        now, policy = self._now, self._policy
        failed = self._fails <= now
        if failed.any():
            self._fails[failed] = now + self._relays.until_failure((int(failed.sum()),), self._drawn)
            self._open[failed] = False
        changed: Bools = np.any(failed, axis=1)
        if self._guards:
            gone, looks = self._guards.step(now)
            self._open &= ~np.take_along_axis(gone, self._via, 1)
            changed |= looks
        lost: Bools
        if self._exits:
            gone, looks = self._exits.step(now)
            lost = gone[self._every, self._exit] & (self._exit != NONE)
            changed |= looks
        else:
            over = self._exit_fails <= now
            self._exit_fails[over] = now + self._relays.until_failure((int(over.sum()),))
            lost = over & ~self._exit_bad
        self._exit[lost] = NONE
        self._open[lost] = False
        if budget := policy.budget:
            refill = policy.routes * STEP_SECONDS / budget.build_seconds
            self._tokens = np.minimum(self._tokens + refill, budget.builds)
            refill = STEP_SECONDS / budget.exit_seconds
            self._exit_tokens = np.minimum(self._exit_tokens + refill, budget.exits)
        changed |= lost
        return changed

    def _seek_exit(self, rows: Ints) -> None:
        """Try the exit that was, then begin circuits until one opens, time is over, or no tokens are left."""
        rows = self._try_exit(rows[~self._open[rows].any(axis=1)])
        for _ in range(self._policy.exits.count if self._policy.exits else EXITS_A_STEP):
            rows = rows[self._tokens[rows] >= 1]
            if self._exits:
                place = self._exits.first(rows, 1, self._now)[:, 0]
                up = self._exits.up[rows, place]
                rows, place = rows[up], place[up]
                self._exit[rows], self._exit_bad[rows] = place, self._exits.corrupt[rows, place]
            else:
                rows = rows[self._exit_tokens[rows] >= 1]
                known = self._guards.corrupt[rows].sum(axis=1) if self._guards else np.zeros(len(rows), int)
                of = self._guards.corrupt.shape[1] if self._guards else 0
                self._exit[rows], self._exit_bad[rows] = 0, self._relays.draw(rows, known, of)
                self._exit_tokens[rows] -= 1
            if not len(rows):
                return
            self._begun[rows] += 1
            rows = self._try_exit(rows)

    def _try_exit(self, rows: Ints) -> Ints:
        """Try routes to the exits that these have; give up those that cannot be had, and return whose."""
        self._build(rows, EXIT_TRIES, planned=0)
        rows = rows[~self._open[rows].any(axis=1)]
        if self._guards and self._policy.in_turn:  # its failures have put other guards first
            self._build(rows, EXIT_TRIES, planned=0)
            rows = rows[~self._open[rows].any(axis=1)]
        if self._exits:
            bound = rows[self._exit[rows] != NONE]
            served = np.zeros(len(bound), bool)
            self._exits.judge(bound, self._exit[bound], served, self._now + SKIP_STEPS)
        self._exit[rows] = NONE
        return rows

    def _build(self, rows: Ints, tries: int, planned: int) -> None:
        """Begin a new route in place of each, again and again, until it stands or `tries` are used up.

        The first `planned` builds of each route do not wait for the budget.
        """
        rows = rows[self._exit[rows] != NONE]
        via, usable, held, stands = self._chances(rows)
        random = self._relays.random.random
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.ceil(np.log1p(-random(stands.shape)) / np.log1p(-stands))
        needed = np.where(stands > 0, np.maximum(needed, 1), np.inf)
        left = np.floor(self._tokens[rows, None] / self._policy.routes)
        allowed = np.minimum(tries, np.maximum(left, planned)) * usable
        done = needed <= allowed
        spent = np.where(done, needed, allowed).sum(axis=1)
        self._tokens[rows] = np.maximum(self._tokens[rows] - spent, 0)
        self._builds[rows] += spent
        corrupt = random(done.shape) * stands < held
        self._entry_bad[rows] = np.where(done, corrupt, self._entry_bad[rows])
        self._via[rows] = np.where(done, via, self._via[rows])
        self._open[rows] |= done
        if self._guards and self._policy.in_turn:
            row, place = np.nonzero(done | (allowed > 0))
            self._guards.judge(rows[row], via[row, place], done[row, place], self._now + SKIP_STEPS)

    def _chances(self, rows: Ints) -> _Chances:
        exit_bad, bad = self._exit_bad[rows, None], self._relays.bad[rows, None]
        shape = len(rows), self._policy.routes
        via, usable = np.zeros(shape, np.int64), np.ones(shape, bool)
        entry_bad: Floats = np.broadcast_to((bad - exit_bad) / (self._relays.count - 1), shape)
        if self._guards:
            via = self._guards.first(rows, self._policy.routes, self._now)
            entry_bad = np.take_along_axis(self._guards.corrupt[rows], via, 1).astype(float)
            usable = np.take_along_axis(self._guards.up[rows], via, 1)
        by_bad, by_good = np.ones(exit_bad.shape), np.ones(exit_bad.shape)
        if self._attack is not Attack.WATCH:
            by_bad = exit_bad.astype(float)
            by_good = np.where(exit_bad, float(self._attack is Attack.WAIT), self._honest[rows])
        held = entry_bad * by_bad
        return _Chances(via, usable, held, held + (1 - entry_bad) * by_good)

    def _settle(self, rows: Ints) -> None:
        """Count what these spend while nothing changes, and the others' builds of this step."""
        quiet = self._cost.copy()
        quiet[rows] = 0
        self._builds += quiet
        self._tokens = np.maximum(self._tokens - quiet, 0)
        _, usable, _, stands = self._chances(rows)
        calm = (self._open[rows] & usable & (stands > 0)).all(axis=1) & (self._exit[rows] != NONE)
        if not self._guards:
            calm &= ~self._exit_bad[rows]  # each new first relay may be corrupt
        self._restless[rows] = ~calm
        with np.errstate(divide="ignore"):
            self._cost[rows] = np.where(calm, (1 / stands).sum(axis=1), 0)
