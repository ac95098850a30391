"""The cost of packets is that of packets which arrive."""

from __future__ import annotations

import pytest

from anonnet.bench import packets
from anonnet.bench.packets import Ends
from anonnet.proto.engine import choose
from anonnet.spec import FORMATS, MAX_TRAIN, NARROW, WIDE, Format


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_every_kind_is_measured_and_only_tcp_is_joined(fmt: Format) -> None:
    measured = packets.measure(fmt, 3)
    assert len({(one.engine, one.kind) for one in measured}) == len(measured)
    assert any(one.engine == "python" for one in measured), "which any machine has"
    for one in measured:
        assert min(one.send, one.fill, one.receive) > 0
        assert (one.join is not None) == one.kind.startswith("TCP")
        content = MAX_TRAIN / 12 if one.join else packets.SMALL_LEN  # 12 segments are a train
        assert one.cells == pytest.approx(content / fmt.content_len, rel=0.25)


def test_a_packet_that_does_not_arrive_is_no_figure() -> None:
    ends = Ends(WIDE, choose())
    ends.round([packets._udp(packets.SMALL_LEN, 1)])
    refused = packets._udp(packets.SMALL_LEN, 1)
    refused[12:16] = packets.SERVER  # not the caller's address
    with pytest.raises(RuntimeError, match="lost"):
        ends.round([packets._udp(packets.SMALL_LEN, 1), refused])


def test_what_is_joined_arrives_as_one() -> None:
    ends = Ends(NARROW, choose())
    segments = packets.cut(packets._tcp(MAX_TRAIN), 1460, 1500)
    *_, cells = ends.round(segments)
    assert len(segments) == 12
    assert cells == -(-(MAX_TRAIN + 2) // NARROW.content_len)
