"""The parts of the native engine and of its reference, Python: the same bytes, the same decisions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet import native, spec
from anonnet.crypto.replay import WINDOW
from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.inbox import NAME_LEN, STRIDE
from anonnet.proto.orders import RATE_UNIT
from anonnet.proto.queue import CAUTION, MOST_CAUTION
from anonnet.proto.slots import MOST_OWED
from anonnet.spec import HEADER_LEN, NARROW, SLOT_MASK, TAG_LEN, Format
from anonnet.wire.cell import CellRow, rows
from tests.proto.twins import FORMAT, SEED, layer_keys

SLOT = st.integers(0, SLOT_MASK)


def random_row(fmt: Format, random: Random) -> CellRow:
    row = rows(fmt, 1)[0]
    row.cell[:] = random.randbytes(fmt.cell_len)
    return row


def test_both_know_the_same_numbers() -> None:
    own = {"STRIDE": STRIDE, "NAME_LEN": NAME_LEN, "WINDOW": WINDOW}
    own |= {"RATE_UNIT": RATE_UNIT, "MOST_OWED": MOST_OWED}
    own |= {"CAUTION": CAUTION, "MOST_CAUTION": MOST_CAUTION}
    assert native.module is not None
    for name, value in native.module.CONSTANTS.items():
        assert value == own.get(name, getattr(spec, name, None)), name


@given(fmt=FORMAT, slot=SLOT, seed=SEED)
def test_layers(fast: Engine, fmt: Format, slot: int, seed: int) -> None:
    """Into another row, in place, and back."""
    key = layer_keys(Random(seed))
    seen = []
    for engine in (PYTHON, fast):
        layer, row, target = engine.layer(key), random_row(fmt, Random(seed)), rows(fmt, 1)[0]
        plain = bytes(row.body)
        left = layer.encipher(slot, random_row(fmt, Random(seed)), target)
        assert left == bytes(target.left)
        assert layer.encipher(slot, row, row) == left
        assert row.body == target.body
        cipher = bytes(row.body)
        assert layer.decipher(slot, row) == plain[:16]
        assert row.body == plain
        seen.append(cipher)
    assert seen[0] == seen[1]


@given(fmt=FORMAT, slot=SLOT, seed=SEED, hops=st.integers(1, 5), target=st.integers(0, 7))
def test_onions(fast: Engine, fmt: Format, slot: int, seed: int, hops: int, target: int) -> None:
    """A caller wraps for some hop; peels what some hop, or none, wrote."""
    found = []
    for engine in (PYTHON, fast):
        random = Random(seed)
        onion, layers = engine.onion(), []
        for _ in range(hops):
            key, offset = layer_keys(random), random.getrandbits(32)
            onion.add(engine.layer(key), offset)
            layers.append((engine.layer(key), offset))
        row = random_row(fmt, random)
        onion.wrap(target + 1, slot, row)
        wrapped = bytes(row.body)
        back = random_row(fmt, random)
        if target < hops:
            back.left[:] = bytes(16)
            for layer, offset in reversed(layers[: target + 1]):
                layer.encipher((slot + offset) & SLOT_MASK, back, back)
        found.append((wrapped, onion.peel(slot, back), bytes(back.body)))
        assert found[-1][1] == (target if target < hops else -1)
    assert found[0] == found[1]


@given(fmt=FORMAT, seed=SEED, flip=st.none() | st.integers(0, 2**16))
def test_what_one_seals_the_other_opens(fast: Engine, fmt: Format, seed: int, flip: int | None) -> None:
    random = Random(seed)
    key, nonce, cell = random.randbytes(32), random.randbytes(HEADER_LEN), random.randbytes(fmt.cell_len)
    sealed = []
    for engine in (PYTHON, fast):
        out = memoryview(bytearray(fmt.cell_len + TAG_LEN))
        assert engine.sealer(key)(memoryview(nonce), memoryview(cell), None, out) == len(out)
        sealed.append(out)
    assert sealed[0] == sealed[1]
    if flip is not None:
        sealed[0][flip % len(sealed[0])] ^= 1 + flip % 255
    for engine in (PYTHON, fast):
        plain = memoryview(bytearray(fmt.cell_len))
        open_ = engine.opener(key)
        if flip is None:
            assert open_(memoryview(nonce), sealed[0], None, plain) == fmt.cell_len
            assert plain == cell
        else:
            with pytest.raises(InvalidTag):
                open_(memoryview(nonce), sealed[0], None, plain)
            assert engine is PYTHON or not any(plain), "nobody may see what was not authenticated"


@given(start=SLOT, steps=st.lists(st.integers(-5, 5) | st.integers(-3000, 3000) | SLOT, max_size=60))
def test_slot_windows(fast: Engine, start: int, steps: list[int]) -> None:
    one, other = PYTHON.slot_window(), fast.slot_window()
    slot = start
    for step in steps:
        slot = (slot + step) & SLOT_MASK
        assert one.accept(slot) == other.accept(slot)
        assert (one.received, one.missing) == (other.received, other.missing)


@given(
    per_tick=st.floats(0.001, 25), start=st.none() | SLOT,
    acts=st.lists(
        st.tuples(st.sampled_from(["put", "put", "claim", "take", "take", "skip", "wait"]),
                  st.integers(-8, 40) | st.integers(0, SLOT_MASK)),
        max_size=120,
    ),
)  # fmt: skip
@settings(max_examples=300)
def test_queues(fast: Engine, per_tick: float, start: int | None, acts: list[tuple[str, int]]) -> None:
    """Any order of everything that a queue can be asked."""
    pair = [engine.queue(NARROW, per_tick) for engine in (PYTHON, fast)]
    tick = 0

    def same(act: Callable[[Any], Any]) -> None:
        results = [act(queue) for queue in pair]
        assert results[0] == results[1]

    def put(queue: Any, slot: int, commit: bool) -> bool:
        row = queue.claim(slot)
        if row is not None:
            row.body[:4] = slot.to_bytes(4, "big")
            if commit:
                queue.commit(slot)
        return row is not None

    def take(queue: Any) -> tuple[int, bytes | None] | None:
        item = queue.take(tick)
        return item and (item[0], item[1] and bytes(item[1].body[:4]))

    if start is not None:
        same(lambda queue: queue.start(start))
    for act, number in acts:
        slot = (pair[0].next + number) & SLOT_MASK
        if act in ("put", "claim"):
            same(lambda queue, slot=slot, act=act: put(queue, slot, act == "put"))  # type: ignore[misc]
        elif act == "take":
            same(take)
        elif act == "skip":
            same(lambda queue, number=number: queue.skip(abs(number) * 7))  # type: ignore[misc]
        else:
            tick += abs(number) % 400
        for name in ("next", "near", "prefill", "received", "missing", "slips"):
            assert getattr(pair[0], name) == getattr(pair[1], name), name
