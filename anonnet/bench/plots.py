"""The record of a benchmark as pictures: SVG, by matplotlib, which is only loaded for this."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anonnet.bench.report import Micro, Report
from anonnet.errors import OperatorError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE: Final = (7.0, 3.6)  # inches
SALT: Final = "anonnet"  # of ids in an SVG: the same figures, the same file


def require() -> None:
    """OperatorError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise OperatorError("plots need matplotlib", "pip install 'anonnet[plot]'")


def draw(report: Report, directory: Path) -> list[Path]:
    """Draw a picture of each group that was measured; OperatorError without matplotlib."""
    require()
    import matplotlib as mpl  # noqa: PLC0415  takes a second; only pictures need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = SALT
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, paint in _pictures(report):
        figure = Figure(figsize=SIZE, layout="constrained")
        paint(figure)
        written.append(directory / f"bench-{name}.svg")
        figure.savefig(written[-1], metadata={"Date": None})
    return written


def _pictures(report: Report) -> Iterator[tuple[str, Any]]:
    if micro := report.micro:
        yield "micro", lambda figure: _micro(figure.subplots(), micro)
    if report.scaling:
        yield "scaling", lambda figure: _scaling(figure.subplots(1, 2), report)
    if report.lab:
        yield "lab", lambda figure: _lab(figure.subplots(1, 2), report)
    if report.emission:
        yield "emission", lambda figure: _emission(figure.subplots(), report)


def _micro(axes: Axes, micro: Micro) -> None:
    """Stacked: what a relay does with a cell, kernel included."""
    names = list(micro.parts)
    below = np.zeros(len(names))
    stages = {
        stage: [getattr(micro.parts[n], stage) for n in names]
        for stage in ("open", "encipher", "switch", "seal")
    }
    for what in ("receive", "send"):
        if all("raw" in micro.sockets[name] for name in names):
            stages[f"kernel: {what}, raw"] = [getattr(micro.sockets[name]["raw"], what) for name in names]
    for stage, values in stages.items():
        heights = np.maximum(values, 0)
        axes.barh(names, heights, left=below, label=stage)
        below += heights
    axes.set_xlabel("microseconds a cell, hot")
    axes.legend(fontsize="small")


def _scaling(pair: Any, report: Report) -> None:
    assert report.scaling
    costs, nodes = report.scaling.costs, report.scaling.nodes
    cost, growth = pair
    cost.bar([f"{one.links}, {one.routes}" for one in costs], [one.us for one in costs])
    cost.set(xlabel="links on each side, routes", ylabel="CPU us a cell, by hand")
    cost.tick_params(axis="x", labelrotation=30)
    growth.plot([one.hops + 1 for one in nodes], [one.idle.mean for one in nodes], "o-", label="echo, ms")
    growth.plot([one.hops + 1 for one in nodes], [100 * one.flows["down"].share for one in nodes], "s-",
                label="goodput, % of the wire")  # fmt: skip
    growth.set(xlabel="nodes in a row", ylim=(0, None))
    growth.legend(fontsize="small")


def _lab(pair: Any, report: Report) -> None:
    share, echo = pair
    names = [one.name.replace(" +", "\n+") for one in report.lab]
    share.barh(names, [100 * one.flows["down"].share for one in report.lab])
    share.set(xlabel="TCP goodput down, % of the wire")
    echo.barh(names, [one.idle.mean / one.tick_ms for one in report.lab], label="idle")
    echo.plot(
        [one.flows["down"].echoes.mean / one.tick_ms for one in report.lab],
        names,
        "k|",
        ms=12,
        label="beside a download",
    )
    echo.set(xlabel="echo, ticks", yticks=[])
    echo.legend(fontsize="small")


def _emission(axes: Axes, report: Report) -> None:
    """Distribution functions: the observer's view of one run."""
    assert report.emission
    for name, values in (("idle", report.emission.idle_us), ("loaded", report.emission.loaded_us)):
        ordered = np.sort(values)
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=name)
    reach = np.percentile(np.abs(report.emission.idle_us), 99)
    axes.set(
        xlim=(-reach, reach), xlabel="emission against the mean of the run, us", ylabel="share of batches"
    )
    axes.legend()
