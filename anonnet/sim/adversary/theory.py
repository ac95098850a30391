"""Closed forms: what the played months are checked against, and what needs no playing.

`c` is everywhere the share of relays that are corrupt, or of whatever is drawn from; shares and chances are
between 0 and 1, times in days. Draws are taken as independent, as in a large network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from anonnet.sim.adversary.model import DAYS, Kept


def some(c: float, draws: float) -> float:
    """Return the chance that of so many draws at least one is corrupt."""
    return 1 - math.pow(1 - c, draws)


def some_kept(c: float, kept: Kept, days: float = DAYS) -> float:
    """Return the chance that a kept list ever holds a corrupt node, in a while shorter than any life.

    In that while each node of an old list is replaced with the chance days / mean life.
    """
    assert days <= kept.days[0]
    return 1 - ((1 - c) * (1 - c * days / kept.mean_days)) ** kept.count


def pairs(first: float, last: float) -> float:
    """Return the chance of a compromise when both the first relays and the exits of a month are fixed lists.

    first, last: the chance that the list holds a corrupt node. An adversary who may choose which of them are
    used together, by killing all else, gets no more than this.
    """
    return first * last


def drawn_exits(c: float, failures: float) -> float:
    """Return the chance that one exit after another is ever corrupt.

    failures: of an honest exit, that are to be expected if none is corrupt: a Poisson process.
    """
    return 1 - (1 - c) * math.exp(-c * failures)


def killed_until_corrupt(c: float, tries: float) -> float:
    """Return the chance that a caller whose only guard is corrupt ends up with a corrupt exit.

    The adversary kills every circuit to an honest exit; `tries` is how many circuits the caller may begin.
    """
    return some(c, tries)


def guard_found(c: float, routes_a_day: float, days: float) -> float:
    """Return the chance that a corrupt exit learns a guard of a circuit: a corrupt second hop saw it.

    Second hops are drawn anew for each route; the exit and the second hop know each other's routes.
    """
    return some(c, routes_a_day * days)


def pinned_guard_found(c: float, second: Kept, days: float) -> float:
    """Return the same for second hops that are drawn from a kept list (a replacement each mean life)."""
    return some(c, second.count * (1 + days / second.mean_days))


def share_by_address(honest: Sequence[int], corrupt: Sequence[int]) -> float:
    """Return the adversary's share of draws if every relay is as likely, given the relays in each network."""
    return sum(corrupt) / (sum(honest) + sum(corrupt))


def share_by_network(honest: Sequence[int], corrupt: Sequence[int]) -> float:
    """Return the same if a network is drawn first, then a relay in it; entry i of both is network i."""
    inhabited = [(h, b) for h, b in zip(honest, corrupt, strict=True) if h + b]
    return sum(b / (h + b) for h, b in inhabited) / len(inhabited)


def both_ends(c: float, networks: int) -> float:
    """Return how many routes an adversary with relays evenly in so many networks holds at both ends.

    No two relays of a route are of one network: nothing for one network, nearly c^2 from a dozen on.
    """
    return c**2 * (1 - 1 / networks)
