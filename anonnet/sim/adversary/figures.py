"""The figures of docs/adversary.md, the same to the byte each time from one version of matplotlib.

Colours keep their meaning over all figures and are told apart by lightness, too; each line ends in its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anonnet.sim.adversary import theory
from anonnet.sim.adversary.model import DAYS, EXITS, Attack, Budget, Kept, Network, Policy, guards
from anonnet.sim.adversary.month import Month, play
from anonnet.sim.adversary.relays import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
AMONG: Final = 0.05  # the share of corrupt relays where one is shown
CALLERS: Final = 1000  # for each share
SEED: Final = 2003

NOTHING: Final = "nothing kept"
BUDGET: Final = "budget"
GUARDS: Final = "guards"
BOTH: Final = "guards, budget"
ALL: Final = "guards, budget, exits kept"
COLOURS: Final = {
    NOTHING: "#8c2d04", BUDGET: "#e6842a", GUARDS: "#7bafd4", BOTH: "#2f6fb0", ALL: "#0b2a4a",
}  # fmt: skip


def policies(routes: int) -> dict[str, Policy]:
    """Return the policies compared, by name, the least careful first."""
    nothing = Policy(routes)
    kept = replace(nothing, guards=guards(routes))
    both = replace(kept, budget=Budget())
    return {
        NOTHING: nothing,
        BUDGET: replace(nothing, budget=Budget()),
        GUARDS: kept,
        BOTH: both,
        ALL: replace(both, exits=EXITS),
    }


Case = tuple[Policy, Attack]


def played(
    cases: Sequence[Case], shares: Sequence[float], callers: int, days: float = DAYS
) -> list[list[Month]]:
    """Play each case against each share of corrupt relays, on all cores: a month for each share, in order."""
    corrupt = np.repeat(shares, callers)
    with ProcessPoolExecutor() as workers:
        months = [
            workers.submit(play, policy, Network(), attack, corrupt, SEED, days) for policy, attack in cases
        ]
        return [month.result().parts(len(shares)) for month in months]


def draw(directory: Path, callers: int = CALLERS, days: float = DAYS) -> list[Path]:
    """Play and draw everything; return the files written."""
    from matplotlib import rc_context  # noqa: PLC0415  (an extra, and slow to load)

    style: dict[Any, Any] = {
        "svg.hashsalt": "anonnet", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4",
        "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.titlesize": 9, "axes.titlelocation": "left",
        "lines.linewidth": 1.6, "legend.frameon": False,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    by_routes = {m: policies(m) for m in (1, 2, 3)}
    attacks = Attack.KILL, Attack.WAIT
    cases = [(p, attack) for attack in attacks for compared in by_routes.values() for p in compared.values()]
    months_of = iter(played(cases, SHARES, callers, days))
    against = {
        attack: {m: {name: next(months_of) for name in compared} for m, compared in by_routes.items()}
        for attack in attacks
    }
    written = []
    with rc_context(style):
        for attack, months in against.items():
            written.append(_save(_ever(months, attack), directory / f"adversary-ever-{attack.value}.svg"))
        written.append(_save(_share(against[Attack.KILL]), directory / "adversary-share.svg"))
        written.append(_save(_days(against[Attack.WAIT][2]), directory / "adversary-days.svg"))
        written.append(_save(_discovery(), directory / "adversary-discovery.svg"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    return path


def _panels(count: int, width: float = 3.0) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width * count, 3.2), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count, sharey=True)))


def _by_share(months: Mapping[int, Mapping[str, Sequence[Month]]], what: str) -> tuple[Figure, list[Axes]]:
    figure, panels = _panels(len(months))
    for panel, (routes, results) in zip(panels, months.items(), strict=True):
        for name, line in results.items():
            values = [float(np.mean(getattr(month, what))) for month in line]
            panel.plot(SHARES, values, color=COLOURS[name], label=name, marker="o", markersize=3)
        panel.set_title(f"{routes} route{'s' if routes > 1 else ''}")
        panel.set_xscale("log")
        panel.set_xticks(SHARES, [f"{100 * share:g}" for share in SHARES])
        panel.minorticks_off()
        panel.set_xlabel("corrupt relays, %")
    _percent(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure, panels


def _percent(panel: Axes) -> None:
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    panel.set_ylim(bottom=0)


def _ever(months: Mapping[int, Mapping[str, Sequence[Month]]], attack: Attack) -> Figure:
    figure, panels = _by_share(months, "ever")
    does = "kill all that they do not hold" if attack is Attack.KILL else "kill, but corrupt exits wait"
    panels[0].set_ylabel(f"callers ever compromised in {DAYS} days")
    figure.suptitle(f"Corrupt relays {does}", x=0.01, ha="left", fontsize=10)
    return figure


def _share(months: Mapping[int, Mapping[str, Sequence[Month]]]) -> Figure:
    figure, panels = _by_share(months, "compromised")
    panels[0].set_ylabel("circuits compromised at a time")
    figure.suptitle("Corrupt relays kill all that they do not hold", x=0.01, ha="left", fontsize=10)
    return figure


def _days(results: Mapping[str, Sequence[Month]]) -> Figure:
    figure, (panel,) = _panels(1, 6.5)
    days = np.linspace(0, DAYS, 121)
    for name, line in results.items():
        panel.plot(days, line[SHARES.index(AMONG)].by(days), color=COLOURS[name], label=name)
    panel.set_title(f"2 routes, {100 * AMONG:g} % corrupt; they kill, but corrupt exits wait")
    panel.set_xlabel("days")
    panel.set_ylabel("callers compromised by then")
    panel.legend(loc="upper left")
    _percent(panel)
    return figure


def _discovery() -> Figure:
    figure, panels = _panels(2, 3.6)
    for panel, share in zip(panels, (0.01, AMONG), strict=True):
        days: Floats = np.geomspace(1 / 48, DAYS, 200)
        rotated = [theory.guard_found(share, 2 * 144, day) for day in days]
        panel.plot(days, rotated, color="#8c2d04", label="second hops drawn for each route")
        for count, colour in ((2, "#7bafd4"), (6, "#0b2a4a")):
            found = [theory.pinned_guard_found(share, Kept(count, (30, 60)), day) for day in days]
            panel.plot(days, found, color=colour, label=f"{count} kept for 30-60 days")
        panel.set_xscale("log")
        panel.set_xticks([1 / 24, 1, 7, 30], ["1 h", "1 day", "1 week", "30 days"])
        panel.minorticks_off()
        panel.set_title(f"{100 * share:g} % corrupt, 2 routes")
    _percent(panels[0])
    panels[0].set_ylabel("a corrupt exit has found a guard")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
