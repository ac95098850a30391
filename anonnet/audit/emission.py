"""When a link's batches leave, from a capture: how evenly, and whether that says if anybody uses the network.

The observer knows the tick and sees where in it each batch begins (`lateness`), for days if he likes. He
compares two sets of such times by the two-sample test of Kolmogorov and Smirnov, which finds any difference
of two distributions, be it of mean, spread or shape, if there are enough of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from anonnet.audit.pcap import Ints

GAP_TICKS: Final = 0.5  # silence that ends a batch
TURN: Final = 2 * np.pi

Reals = NDArray[np.float64]


def batches(times: Ints, tick_ns: int) -> Ints:
    """Return when each batch begins: arrivals of one direction of a link, ns, ascending."""
    if not len(times):
        return times
    begins = np.diff(times, prepend=times[0] - tick_ns) > GAP_TICKS * tick_ns
    return times[begins]


def lateness(begins: Ints, tick_ns: int) -> Reals:
    """Return where in its tick each batch begins, ns, less the mean of all; the grid never moves."""
    offsets = (begins - begins[0]) % tick_ns
    angles = offsets * (TURN / tick_ns)
    mean = np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()) * tick_ns / TURN
    centred: Reals = (offsets - mean + tick_ns / 2) % tick_ns - tick_ns / 2
    return centred


def same(one: Reals, other: Reals) -> float:
    """Return how likely so great a difference of two sets is if there is none between what made them."""
    from scipy.stats import ks_2samp  # noqa: PLC0415  takes a second; only this test needs it

    return float(ks_2samp(one, other).pvalue)


def none_of(p_values: list[float], level: float = 0.01) -> bool:
    """Whether no test of so many finds a difference (Bonferroni: each at its part of the level)."""
    return min(p_values) > level / len(p_values)
