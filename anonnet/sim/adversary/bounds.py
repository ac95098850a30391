"""What docs/adversary.md says without playing months: closed forms, in per cent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from anonnet.proto.guards import GUARD_DAYS
from anonnet.sim.adversary import theory
from anonnet.sim.adversary.model import DAYS, EXITS, STEPS_PER_DAY, Budget, Kept, Network, guards

SHARES: Final = (0.01, 0.05, 0.1, 0.2)
ROUTES: Final = (1, 2, 3)
GUARDS: Final = (1, 2, 3, 4)
LISTS: Final = (4, 3, 2)  # exits kept
GROWN_GUARDS: Final = 6  # to how many guards, of two routes, the list may grow
GROWN_EXITS: Final = 4
LIVES: Final = (30.0, 90.0, 270.0)  # days
YEAR: Final = 365.0
SECOND_HOPS: Final = (2, 4, 6)
SECOND_DAYS: Final = (30.0, 60.0)
TWO_ROUTES: Final = 2 * STEPS_PER_DAY  # made in a day


def tables() -> Iterator[str]:
    """Yield the lines of all tables, in Markdown; the first stands in docs/adversary.md as it is here."""
    yield from _table(
        ["c", "routes", "4 exits and one each 2 h", "an exit drawn when the last failed by itself",
         *(f"list of {count}" for count in LISTS)],
        [_compromised(c) for c in SHARES],
    )  # fmt: skip
    yield from _table(
        ["c", f"lists grown to {GROWN_GUARDS} guards and {GROWN_EXITS} exits", "not grown, in a year"],
        [_for_long(c) for c in SHARES],
    )
    yield from _table(
        ["c", f"a guard of {_listed(GUARDS)} in a month", "in a year",
         f"of 3 with lives of {_listed(LIVES)} days in a year"],
        [_guards(c) for c in SHARES],
    )  # fmt: skip
    yield from _table(
        ["c", "a second hop, drawn anew: in an hour", "if killing doubles the builds", "in a day",
         f"{_listed(SECOND_HOPS)} kept for 30-60 days: in a month"],
        [_discovered(c) for c in SHARES],
    )  # fmt: skip


def _compromised(c: float) -> list[str]:
    """Upper bounds of the chance that a caller is ever compromised, by how exits are drawn."""
    budget = Budget()
    exits = [
        theory.some(c, budget.exits + DAYS * 86_400 / budget.exit_seconds),
        theory.drawn_exits(c, DAYS / Network().up_days),
        *(theory.some_kept(c, Kept(count, EXITS.days)) for count in LISTS),
    ]
    firsts = [theory.some_kept(c, guards(routes)) for routes in ROUTES]
    cells = [_row(theory.pairs(first, last) for first in firsts) for last in exits]
    return [_share(c), _listed(ROUTES), *cells]


def _for_long(c: float) -> list[str]:
    """The same with two routes, when lists have grown or have lasted."""
    lists = ((GROWN_GUARDS, GUARD_DAYS), (GROWN_EXITS, EXITS.days))
    grown = theory.pairs(*(theory.some_kept(c, Kept(count, days)) for count, days in lists))
    year = theory.pairs(_in_a_year(c, guards(2)), _in_a_year(c, EXITS))
    return [_share(c), _row([grown]), _row([year])]


def _guards(c: float) -> list[str]:
    """Chances that a guard is ever corrupt."""
    month = (theory.some_kept(c, Kept(count, GUARD_DAYS)) for count in GUARDS)
    year = (_in_a_year(c, Kept(count, GUARD_DAYS)) for count in GUARDS)
    return [_share(c), _row(month), _row(year), _row(_in_a_year(c, Kept(3, (days, days))) for days in LIVES)]


def _in_a_year(c: float, kept: Kept) -> float:
    """Return the chance that a kept list ever holds a corrupt node, in longer than a life."""
    return theory.some(c, kept.count * (1 + YEAR / kept.mean_days))


def _discovered(c: float) -> list[str]:
    """Chances that a corrupt exit has found a guard, with two routes."""
    drawn = [theory.guard_found(c, rate, days) for rate, days in
             ((TWO_ROUTES, 1 / 24), (2 * TWO_ROUTES, 1 / 24), (TWO_ROUTES, 1))]  # fmt: skip
    kept = [theory.pinned_guard_found(c, Kept(count, SECOND_DAYS), DAYS) for count in SECOND_HOPS]
    return [_share(c), *(_row([chance]) for chance in drawn), _row(kept)]


def _share(c: float) -> str:
    return f"{100 * c:g} %"


def _listed(numbers: Iterable[float]) -> str:
    return " / ".join(f"{number:g}" for number in numbers)


def _row(chances: Iterable[float]) -> str:
    return " / ".join(f"{100 * chance:.2g}" if chance < 0.995 else "100" for chance in chances)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
