"""Captures of every link type read alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapWriter

from anonnet.audit.pcap import parse, trim
from anonnet.errors import OperatorError

PACKETS: list[Packet] = [
    IP(src="100.64.0.2", dst="100.65.0.2", proto=253) / Raw(bytes(1232)),
    IPv6(src="3fff::2", dst="3fff:1::2", nh=253) / Raw(bytes(1232)),
    IP(src="203.0.113.2", dst="100.64.0.2") / TCP(sport=80, dport=40000) / Raw(bytes(100)),
    IPv6(src="3fff::2", dst="3fff:1::2") / UDP(sport=2531, dport=2532) / Raw(bytes(4)),
]
FRAMES = {1: Ether, 113: CookedLinux, 276: CookedLinuxV2, 101: None}


def frame(packet: Packet, link_type: int) -> bytes:
    kind = FRAMES[link_type]
    if kind is None:
        return bytes(packet)
    proto = 0x86DD if IPv6 in packet else 0x0806 if ARP in packet else 0x0800
    head = kind(dst="02:00:00:00:00:01", type=proto) if kind is Ether else kind(proto=proto)
    return bytes(head / packet)


def capture(
    frames: list[bytes], link_type: int, nano: bool = True, endian: str = "<", snaplen: int = 64
) -> bytes:
    file = io.BytesIO()
    writer = RawPcapWriter(file, linktype=link_type, nano=nano, endianness=endian, snaplen=snaplen)
    writer.write_header(None)
    for n, data in enumerate(frames):
        fraction = n * 1000 if nano else n
        writer.write_packet(
            data[:snaplen], sec=7, usec=fraction, caplen=min(len(data), snaplen), wirelen=len(data)
        )
    return file.getvalue()


@pytest.mark.parametrize("link_type", FRAMES)
@pytest.mark.parametrize("nano", [True, False])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_field(link_type: int, nano: bool, endian: str) -> None:
    trace = parse(capture([frame(p, link_type) for p in PACKETS], link_type, nano, endian))
    assert trace.time.tolist() == [7 * 10**9 + n * 1000 for n in range(4)]
    assert trace.length.tolist() == [len(p) for p in PACKETS]
    assert trace.version.tolist() == [4, 6, 4, 6]
    assert trace.proto.tolist() == [253, 253, 6, 17]
    assert trace.sport.tolist() == [0, 0, 80, 2531]
    assert trace.dport.tolist() == [0, 0, 40000, 2532]
    assert len(trace.between("100.64.0.0/10", "100.65.0.2")) == 1
    assert trace.sent_to("3fff:1::2").tolist() == [False, True, False, True]
    assert len(trace.between("3fff::/20", "3fff::/20")) == 2
    assert not trace.sent_from("0.0.0.0/0")[1]


def test_frames_that_are_not_ip() -> None:
    trace = parse(capture([bytes(Ether(dst="02:00:00:00:00:01", type=0x0806) / ARP())], 1))
    assert (trace.version[0], trace.proto[0], int(trace.src.sum())) == (0, -1, 0)


def test_a_record_cut_short_is_left_out() -> None:
    data = capture([frame(p, 1) for p in PACKETS], 1)
    assert len(parse(data[:-1])) == 3
    assert len(parse(data[:24])) == 0


def test_trimming_keeps_a_window_of_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(capture([frame(p, 1) for p in PACKETS], 1))
    whole = parse(path.read_bytes())
    assert trim(path, 7 * 10**9 + 1000, 7 * 10**9 + 3000) == 2
    assert parse(path.read_bytes()).length.tolist() == whole.length[1:3].tolist()
    assert trim(path, 0, 1) == 0
    assert len(parse(path.read_bytes())) == 0


def test_masks_select_rows() -> None:
    trace = parse(capture([frame(p, 1) for p in PACKETS], 1))
    assert trace.where(trace.proto == 253).length.tolist() == [1252, 1272]
    assert trace.src.dtype == np.uint8


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(200)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(OperatorError, match="not a pcap"):
        parse(data)


@given(st.binary(max_size=400))
def test_any_records_are_read_without_an_exception(tail: bytes) -> None:
    parse(capture([], 1) + tail)
