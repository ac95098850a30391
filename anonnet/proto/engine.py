"""What the hot path of the data plane is made of: in Python, the reference, or native.

The native parts (anonnet/native) have the interfaces of the Python ones, give the same bytes and make the
same decisions; tests run both. They know the default suite only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anonnet import native
from anonnet.crypto.onion import LayerKeys, Onion, OnionLayer
from anonnet.crypto.replay import ReplayWindow
from anonnet.crypto.suite import ANONNET_2026, Open, Seal, Suite
from anonnet.errors import OperatorError
from anonnet.proto.intake import Intake, ReceiveSession
from anonnet.proto.pacer import LEAD_CELL_NS
from anonnet.proto.queue import SLIP_SPACING, ForwardQueue, Sizes
from anonnet.proto.rewrite import Plain, nothing_plain
from anonnet.proto.segment import Segmenter, Unpacker
from anonnet.proto.slots import Filler, Lane, fill
from anonnet.proto.train import Complete, Join, complete, join
from anonnet.proto.transit import Inlet, Outlet
from anonnet.proto.window import SlotWindow
from anonnet.spec import Format

NATIVE_LEAD_CELL_NS: Final = 3_000


@dataclass(frozen=True, repr=False)
class Engine:
    """One set of parts. They are made for each other: none goes with another set's."""

    name: str
    lead_cell_ns: int  # how much earlier a beat is sealed for each of its cells, far more than that takes
    sealer: Callable[[bytes], Seal]
    opener: Callable[[bytes], Open]
    layer: Callable[[LayerKeys], OnionLayer]
    onion: type[Onion]
    replay_window: type[ReplayWindow]
    slot_window: type[SlotWindow]
    queue: Callable[[Format, float], ForwardQueue]
    inlet: type[Inlet]
    outlet: type[Outlet]
    lane: type[Lane]
    filler: type[Filler]
    fill: Callable[[list[Filler], int], None]
    session: type[ReceiveSession]
    intake: type[Intake]
    threads: Callable[[int], int]  # let so many share the work, or as many as can be had; before any key
    segmenter: type[Segmenter]
    unpacker: type[Unpacker]
    join: Join
    complete: Complete
    rewrite: Plain

    def __repr__(self) -> str:
        return self.name


def python(suite: Suite) -> Engine:
    """Return the reference, with the ciphers of a suite."""
    return Engine(
        name="python",
        lead_cell_ns=LEAD_CELL_NS,
        sealer=suite.sealer,
        opener=suite.opener,
        layer=suite.layer,
        onion=Onion,
        replay_window=ReplayWindow,
        slot_window=SlotWindow,
        queue=ForwardQueue,
        inlet=Inlet,
        outlet=Outlet,
        lane=Lane,
        filler=Filler,
        fill=fill,
        session=ReceiveSession,
        intake=Intake,
        threads=lambda _wanted: 1,
        segmenter=Segmenter,
        unpacker=Unpacker,
        join=join,
        complete=complete,
        rewrite=nothing_plain,
    )


def _native() -> Engine | None:
    module = native.module
    if module is None:
        return None
    return Engine(
        name="native",
        lead_cell_ns=NATIVE_LEAD_CELL_NS,
        sealer=module.Sealer,
        opener=module.Opener,
        layer=module.Layer,
        onion=module.Onion,
        replay_window=module.ReplayWindow,
        slot_window=module.SlotWindow,
        queue=lambda fmt, per_tick: module.ForwardQueue(fmt, *Sizes.of(per_tick), spacing=SLIP_SPACING),
        inlet=module.Inlet,
        outlet=module.Outlet,
        lane=module.Lane,
        filler=module.Filler,
        fill=module.fill,
        session=module.ReceiveSession,
        intake=module.Intake,
        threads=module.threads,
        segmenter=module.Segmenter,
        unpacker=module.Unpacker,
        join=module.join,
        complete=module.complete,
        rewrite=module.rewrite,
    )


PYTHON: Final = python(ANONNET_2026)
NATIVE: Final = _native()  # None: see native.trouble


def choose(suite: Suite = ANONNET_2026, wanted: bool | None = None) -> Engine:
    """Return the engine to use: native (True), Python (False), or the best that there is.

    ANONNET_NATIVE decides before `wanted` does. OperatorError if the native one is wanted and cannot be had.
    """
    wanted = native.wanted(wanted)
    if wanted and NATIVE is None:
        raise native.missing()
    if wanted and suite is not ANONNET_2026:
        hint = 'set data_plane.native = "auto"'
        raise OperatorError(f"the native data plane does not know suite {suite.name}", hint)
    if NATIVE is None or wanted is False or suite is not ANONNET_2026:
        return python(suite)
    return NATIVE
