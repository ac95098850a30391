"""A wire by ticks in a terminal: idle and loaded side by side, one row a second.

                 idle                                loaded
    out   0 s    ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅  22 22 22          ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅  22 22 22

Each block is the datagrams of a few ticks against twice the profile's number, so an even half-height band is
a constant rate and any message would stick out; beside it the least, median and most in any one tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from rich.table import Table
from rich.text import Text

from anonnet.audit.pcap import Ints
from anonnet.audit.wire import Stream

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
WIDTH: Final = 20  # blocks in a row, at most: a table then fits in 80 columns
MAX_ROWS: Final = 8


def strip(counts: Ints, cells_per_tick: int, width: int = WIDTH) -> str:
    """Draw consecutive ticks as at most `width` blocks; full height is twice `cells_per_tick` or more."""
    if not len(counts):
        return ""
    levels = []
    for part in np.array_split(counts, min(width, len(counts))):
        share = float(part.mean()) / (2 * cells_per_tick)
        # Rounded up above zero: a lone datagram in an empty stretch must show.
        levels.append(min(len(BLOCKS) - 1, int(np.ceil(share * (len(BLOCKS) - 1)))))
    return "".join(BLOCKS[level] for level in levels)


def picture(
    title: str, streams: Mapping[str, tuple[Stream, Stream]], cells_per_tick: Mapping[str, int]
) -> Table:
    """Return a table: for each direction its seconds as rows, idle and loaded side by side."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "", "idle", "per tick", "loaded", "per tick"):
        table.add_column(heading, no_wrap=True)
    for direction, pair in streams.items():
        cells = cells_per_tick[direction]
        rows = zip(*(_seconds(one) for one in pair), strict=False)
        for second, parts in enumerate(rows):
            if second == MAX_ROWS:
                break
            drawn = [piece for part in parts for piece in _cell(part, cells)]
            table.add_row(direction if not second else "", f"{second} s", *drawn)
    return table


def _seconds(stream: Stream) -> list[Ints]:
    """Cut the counts into seconds; a short rest at the end is left out unless it is all there is."""
    ticks = max(1, round(1e9 / stream.tick_ns))
    whole = len(stream.counts) // ticks
    return [stream.counts[k * ticks : (k + 1) * ticks] for k in range(whole)] or [stream.counts]


def _cell(counts: Ints, cells: int) -> tuple[Text, Text]:
    if not len(counts):
        return Text("(no traffic)", "red"), Text("")
    least, median, most = int(counts.min()), int(np.median(counts)), int(counts.max())
    colour = "green" if least == most == cells else "yellow"
    return Text(strip(counts, cells), colour), Text(f"{least}/{median}/{most}", colour)
