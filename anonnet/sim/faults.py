"""Many fault schedules: `python -m anonnet.sim.faults --count 1000 --seed 1`.

Each is decided by its number alone; `--seed N --count 1 --verbose` lives through one again and tells of it.
Every trial runs in a process of its own, forked from one in which the networks stand ready.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool

import click

from anonnet.sim.clock import SECOND
from anonnet.sim.trial import PROFILES, Outcome, Trace, Trial, idle, ready
from anonnet.sim.world import World

_worlds: list[World] = []
_traces: list[Trace] = []


def _idle(kind: int) -> Trace:
    return idle(_worlds[kind])


def _live(seed: int) -> Outcome:
    kind = seed % len(PROFILES)
    return Trial(seed, _worlds[kind]).live(_traces[kind])


def live(seeds: Iterable[int], processes: int | None = None) -> Iterator[Outcome]:
    """Live through the schedules of these seeds; yield outcomes as they come."""
    if not _worlds:
        _worlds.extend(ready(kind) for kind in range(len(PROFILES)))
    workers = processes or os.cpu_count() or 1
    if not _traces:
        with _pool(workers) as pool:
            _traces.extend(pool.map(_idle, range(len(PROFILES)), chunksize=1))
    with _pool(workers) as pool:
        yield from pool.imap_unordered(_live, seeds, chunksize=1)


@contextmanager
def _pool(workers: int) -> Iterator[Pool]:
    """Let a process be forked for each task; wait for the last ones to end by themselves.

    A pool that is terminated just as it replaces a worker can wait for that one for ever.
    """
    with multiprocessing.get_context("fork").Pool(workers, maxtasksperchild=1) as pool:
        yield pool
        pool.close()
        pool.join()


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return what a table of all outcomes would show."""
    failed = sorted(outcome.seed for outcome in outcomes if outcome.trouble)
    recoveries = sorted(outcome.recovery / SECOND for outcome in outcomes if not outcome.trouble) or [0.0]
    kinds = Counter(fault.kind for outcome in outcomes for fault in outcome.faults)
    sent, out, back = (sum(getattr(o, name) for o in outcomes) for name in ("sent", "out", "back"))
    lines = [
        f"schedules            {len(outcomes)}, failed {len(failed)} {failed or ''}",
        f"faults               {sum(kinds.values())}: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
        f"virtual time         {sum(o.lived for o in outcomes) / SECOND / 3600:.1f} h",
        f"packets              {sent} sent each way; {out} came out, {back} came back",
        f"flows again after    median {recoveries[len(recoveries) // 2]:.2f} s, "
        f"99 % {recoveries[len(recoveries) * 99 // 100]:.2f} s, longest {recoveries[-1]:.2f} s",
        f"wires as when idle   {sum(o.wires for o in outcomes)}, "
        f"{sum(o.datagrams for o in outcomes)} datagrams",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--count", default=1000, help="how many schedules")
@click.option("--seed", default=1, help="number of the first")
@click.option("--processes", default=None, type=int, help="at once; default: one per core")
@click.option("--verbose", is_flag=True, help="show each schedule and its outcome")
def main(count: int, seed: int, processes: int | None, verbose: bool) -> None:
    """Live through fault schedules and say what became of them."""
    began = time.monotonic()
    outcomes = []
    for outcome in live(range(seed, seed + count), processes):
        outcomes.append(outcome)
        if outcome.trouble or verbose:
            flows = f"packets flow again after {outcome.recovery / SECOND:.2f} s"
            click.echo(f"seed {outcome.seed}: {outcome.trouble or 'well'}; {flows}")
            for fault in outcome.faults:
                click.echo(f"    {fault}")
    click.echo(summary(outcomes))
    click.echo(f"took                 {time.monotonic() - began:.0f} s")
    sys.exit(any(outcome.trouble for outcome in outcomes))


if __name__ == "__main__":
    main()
