"""The record of a benchmark as pictures: SVG, by matplotlib, which is only loaded for this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anonnet.bench.chain import Measured
from anonnet.bench.report import Micro, Node, Report
from anonnet.bench.scaling import Scaling
from anonnet.errors import OperatorError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        yield "micro", lambda figure: _micro(figure, micro)
    if node := report.node:
        yield "node", lambda figure: _node(figure.subplots(), node)
    if scaling := report.scaling:
        yield "scaling", lambda figure: _scaling(figure, scaling)
    if report.lab:
        yield "lab", lambda figure: _lab(figure, report.lab)
    if report.emission:
        yield "emission", lambda figure: _emission(figure.subplots(), report)


def _micro(figure: Figure, micro: Micro) -> None:
    """Stacked: what a relay does with a cell, kernel included."""
    axes = figure.subplots()
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
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")


def _node(axes: Axes, node: Node) -> None:
    """A relay at work, beside one that only passes datagrams on."""
    costs = {
        f"{one.rate} {one.transport}, {_numbers(one.links, one.routes)}" + (", cores busy" * bool(one.busy)):
        one.cpu_us for one in node.relays
    }  # fmt: skip
    costs |= {f"{name}, without AnonNet": bare.cpu_us for name, bare in node.bare.items()}
    colours = ["C0"] * len(node.relays) + ["C7"] * len(node.bare)
    axes.barh(list(costs), list(costs.values()), color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("CPU us a cell")


def _numbers(links: int, routes: int) -> str:
    return f"{links} link{'s' * (links > 1)}, {routes} route{'s' * (routes > 1)}"


def _scaling(figure: Figure, scaling: Scaling) -> None:
    """By links and routes, and by nodes in a row if that was measured."""
    panels = figure.subplots(1, 2 if scaling.nodes else 1, squeeze=False)[0]
    cost = panels[0]
    cost.bar([f"{one.links}, {one.routes}" for one in scaling.costs], [one.us for one in scaling.costs])
    cost.set(xlabel="links on each side, routes", ylabel="CPU us a cell, by hand")
    cost.tick_params(axis="x", labelrotation=30)
    if scaling.nodes:
        growth, numbers = panels[1], [one.hops + 1 for one in scaling.nodes]
        for label, style, values in (
            ("echo, ms", "o-", [one.idle.mean for one in scaling.nodes]),
            ("circuit, ms", "^-", [one.circuit_ms for one in scaling.nodes]),
            ("goodput, % of the wire", "s-", [100 * one.flows["down"].share for one in scaling.nodes]),
        ):
            growth.plot(numbers, values, style, label=label)
        growth.set(xlabel="nodes in a row", xticks=numbers, ylim=(0, None))
        growth.legend(fontsize="small")


def _lab(figure: Figure, paths: Sequence[Measured]) -> None:
    """Goodput down, and echoes in ticks, since these make most of them."""
    share, echo = figure.subplots(1, 2, sharey=True)
    paths = [path for path in paths if "down" in path.flows]
    names = [one.name.replace(" +", "\n+") for one in paths]
    share.barh(names, [100 * one.flows["down"].share for one in paths])
    share.set(xlabel="TCP goodput down, % of the wire", ylim=(len(paths), -1))
    echo.barh(names, [one.idle.mean / one.tick_ms for one in paths], label="echo, idle")
    loaded = [one.flows["down"].echoes.mean / one.tick_ms for one in paths]
    echo.plot(loaded, names, "k|", ms=12, label="beside a download")
    echo.set(xlabel="echo, ticks")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")


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
