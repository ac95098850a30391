"""The lab's machines, without daemons, in namespaces of these tests' own.

antest-PID-caller ---- antest-PID-core ---- antest-PID-web
antest-PID-r1 --------'  |  '------- antest-PID-x1
antest-PID-r2 -----------'
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anonnet.audit import wire
from anonnet.audit.pcap import read
from anonnet.errors import OperatorError
from anonnet.lab import namespaces, network, services
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CORE, WEB, Place
from anonnet.lab.stalls import StallWatch
from anonnet.lab.topology import build
from anonnet.lab.weather import Rule, Weather

pytestmark = pytest.mark.root
MS = 1_000_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    here = Place(tmp_path_factory.mktemp("lab"), f"antest-{os.getpid()}-")
    network.create(here, build(chain=True))
    yield here
    network.destroy(here)
    assert not namespaces.existing(here)
    assert not here.directory.exists()


def run(place: Place, host: str, *command: str) -> str:
    inside = namespaces.inside(place, host, command)
    return subprocess.run(inside, check=True, capture_output=True, text=True, timeout=60).stdout


def access_log(place: Place) -> list[dict[str, object]]:
    return [json.loads(line) for line in (place.of(WEB) / "access.log").read_text().splitlines()]


@pytest.mark.parametrize("url", ["http://203.0.113.2", "http://[2001:db8:cafe::2]", "http://web.lab"])
def test_files_arrive_whole_and_the_log_names_the_client(place: Place, url: str) -> None:
    body = subprocess.run(
        namespaces.inside(place, "r1", ["curl", "-sS", "--fail", f"{url}/300kB.bin"]),
        check=True,
        capture_output=True,
    ).stdout
    assert hashlib.sha256(body).hexdigest() == content_sha256("300kB.bin")
    line = [line for line in access_log(place) if line.get("path") == "/300kB.bin"][-1]
    assert line["client"] in ("100.65.0.2", "3fff:1::2")
    assert (line["status"], line["bytes"]) == (200, 300_000)


def test_https_holds_against_the_labs_certificate(place: Place) -> None:
    said = run(
        place, "caller", "curl", "-sS", "--cacert", str(place.certificate), "https://web.lab/sha256/1kB"
    )
    assert said.strip() == content_sha256("1kB")
    with pytest.raises(subprocess.CalledProcessError):
        run(place, "caller", "curl", "-sS", "https://web.lab/")


def test_ranges_uploads_and_missing_files(place: Place) -> None:
    code = ["curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null"]
    assert run(place, "r1", *code, "-r", "16-31", "http://web.lab/1kB") == "206"
    assert run(place, "r1", *code, "http://web.lab/no") == "404"
    said = json.loads(run(place, "r1", "curl", "-sS", "-d", "hello", "http://web.lab/up"))
    assert said == {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}


def test_names_resolve_as_any_program_asks(place: Place) -> None:
    found = {line.split()[0] for line in run(place, "caller", "getent", "ahosts", "web.lab").splitlines()}
    assert found == {"203.0.113.2", "2001:db8:cafe::2"}
    assert run(place, "x1", "dig", "+tcp", "+short", "AAAA", "web.lab").strip() == "2001:db8:cafe::2"
    assert "status: REFUSED" in run(place, "x1", "dig", "example.org")
    asked = [line for line in access_log(place) if line["service"] == "dns" and line["transport"] == "tcp"]
    assert asked[-1]["client"] == "100.67.0.2"


def test_iperf3_answers(place: Place) -> None:
    services.wait_for(lambda: "5201" in run(place, WEB, "ss", "-tln"), 10, "iperf3 does not listen")
    result = json.loads(run(place, "r1", "iperf3", "-c", "203.0.113.2", "-n", "1M", "-J"))
    assert result["end"]["sum_received"]["bytes"] > 0


def test_captures_show_what_was_sent_and_no_wire_carries_more_than_its_mtu(
    place: Place, tmp_path: Path
) -> None:
    outer, core = tmp_path / "outer.pcap", tmp_path / "core.pcap"
    with network.Capture(place, "caller", outer) as capture, network.Capture(place, CORE, core):
        run(place, "caller", "ping", "-c", "20", "-i", "0.01", "100.65.0.2")
        run(place, "caller", "curl", "-sS", "-o", "/dev/null", "http://203.0.113.2/1MB")
    assert capture.dropped == 0
    trace = read(outer)
    assert len(trace) == capture.captured
    pings = trace.between("100.64.0.2", "100.65.0.2")
    assert (len(pings), set(pings.length.tolist()), set(pings.proto.tolist())) == (20, {84}, {1})
    assert trace.length.max() <= 1500
    # The router sees each packet come and go.
    assert len(read(core).between("100.64.0.2", "100.65.0.2")) == 40


def test_an_idle_host_says_nothing(place: Place, tmp_path: Path) -> None:
    with network.Capture(place, "r2", tmp_path / "idle.pcap"):
        time.sleep(2)
    assert len(read(tmp_path / "idle.pcap")) == 0


SENDER = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
for n in range(int(sys.argv[2])):
    sock.sendto(n.to_bytes(4, "big"), (sys.argv[1], 7777))
    if n % 20 == 0:
        time.sleep(0.001)
"""


@pytest.mark.parametrize(("target", "family"), [("100.65.0.2", 4), ("3fff:1::2", 6)])
def test_weather_keeps_to_its_rule_exactly(place: Place, tmp_path: Path, target: str, family: int) -> None:
    rule = Rule(drop=0.05, duplicate=0.03, reorder=0.02, delay=5 * MS, hold=20 * MS, seed=42)
    count, source = 5000, {4: "100.64.0.2", 6: "3fff::2"}[family]
    run(place, "caller", "ping", "-c", "1", target)  # neighbours known before packets are counted
    network.set_weather(place, rule)
    try:
        with network.Capture(place, "r1", tmp_path / "r1.pcap") as capture:
            run(place, "caller", sys.executable, "-c", SENDER, target, str(count))
            until_quiet(place, count)
    finally:
        counts = network.clear_weather(place)
    expected = Weather(rule)
    for _ in range(count):
        expected.submit(packet(family, source, target), 0)
    expected.due(2**62)
    assert capture.dropped == 0
    arrived = read(tmp_path / "r1.pcap").between(source, target)
    assert len(arrived.where(arrived.dport == 7777)) == expected.counts["sent"]
    # What comes back (port unreachable) passes too, with fates of its own.
    assert counts["dropped"] >= expected.counts["dropped"] > 200


def until_quiet(place: Place, count: int) -> None:
    """Wait until the router has taken in so many packets, and no more come."""
    seen = [0]

    def quiet() -> bool:
        time.sleep(1.1)  # it counts once a second
        seen.append(network.weather_counts(place).get("received", 0))
        return seen[-1] == seen[-2] >= count

    services.wait_for(quiet, 60, f"the router has seen {seen} packets of {count}")


STREAM = """
import os, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
start, tick = time.monotonic_ns(), int(sys.argv[2])
for n in range(int(sys.argv[3])):
    time.sleep(max(0, start + n * tick - time.monotonic_ns()) / 1e9)
    for _ in range(8):
        sock.sendto(bytes(1232), (sys.argv[1], 0))
"""


def test_a_constant_stream_is_counted_exactly_by_ticks(place: Place, tmp_path: Path) -> None:
    tick = 20 * MS
    run(place, "caller", "ping", "-c", "1", "100.65.0.2")
    with StallWatch() as watch, network.Capture(place, "caller", tmp_path / "stream.pcap"):
        run(place, "caller", sys.executable, "-c", STREAM, "100.65.0.2", str(tick), "100")
    trace = read(tmp_path / "stream.pcap").between("100.64.0.2", "100.65.0.2")
    seen = wire.stream(trace, tick)
    assert seen.lengths == {1252: 800}
    assert sum(seen.histogram.values()) == 98  # all but the first and last tick, which a capture may cut
    whole = seen.without(watch.stalls).histogram
    assert set(whole) == {8}
    assert whole[8] > 50


def test_weather_spares_the_others_and_ends(place: Place) -> None:
    network.set_weather(place, Rule(drop=1.0), ["r2"])
    try:
        with pytest.raises(subprocess.CalledProcessError):
            run(place, "caller", "ping", "-c", "1", "-W", "1", "100.66.0.2")
        run(place, "caller", "ping", "-c", "1", "-W", "10", "100.65.0.2")
        run(place, "r2", "ping", "-c", "1", "-W", "10", "203.0.113.2")
    finally:
        network.clear_weather(place)
    run(place, "caller", "ping", "-c", "1", "-W", "10", "100.66.0.2")
    for family in ("-4", "-6"):
        assert "lookup 77" not in run(place, CORE, "ip", family, "rule")


def test_weather_over_everything_reaches_the_web_host(place: Place) -> None:
    network.set_weather(place, Rule(delay=50 * MS), everything=True)
    try:
        said = run(place, "caller", "ping", "-c", "1", "2001:db8:cafe::2")
    finally:
        network.clear_weather(place)
    assert float(said.split("min/avg")[1].split("/")[3]) > 100


def test_commands_run_with_the_hosts_configuration(place: Place) -> None:
    check = f'test "$ANONNET_CONFIG" = {place.config("r1")}'
    assert network.execute(place, f"{place.prefix}r1", ["sh", "-c", check]) == 0
    assert network.execute(place, "r1", ["sh", "-c", "exit 7"]) == 7
    assert network.execute(place, "r1", ["sh", "-c", "kill -TERM $$"]) == 128 + signal.SIGTERM
    with pytest.raises(OperatorError, match="no host"):
        network.execute(place, "r9", ["true"])


def test_a_second_lab_in_the_same_place_is_refused(place: Place) -> None:
    with pytest.raises(OperatorError, match="already up"):
        network.create(place, build())
    assert network.load(place) == build(chain=True)


def test_down_clears_up_after_a_lab_that_was_killed(tmp_path: Path) -> None:
    place = Place(tmp_path / "lab", f"antest-{os.getpid()}k-")
    script = (
        "import sys, time; from pathlib import Path; from anonnet.lab import network, services, topology\n"
        "from anonnet.lab.place import Place\n"
        "place = Place(Path(sys.argv[1]), sys.argv[2]); network.create(place, topology.build(chain=True))\n"
        "services.start(place, 'r1', 'stubborn', ['sh', '-c', 'trap : TERM; while :; do sleep 0.1; done'])\n"
        "print('half way', flush=True); time.sleep(60)"
    )
    lab = subprocess.Popen(
        [sys.executable, "-c", script, str(place.directory), place.prefix], stdout=subprocess.PIPE, text=True
    )
    try:
        assert lab.stdout is not None
        assert lab.stdout.readline() == "half way\n"
        lab.kill()
        lab.wait()
        lab.stdout.close()
        services.wait_for(lambda: services.running(place, "r1", "stubborn"), 10, "it is not in there")
        assert services.running(place, WEB, "web")
        assert len(namespaces.existing(place)) == 6
        place.record.unlink()  # even without its record the lab is found
        assert network.destroy(place)
        assert namespaces.existing(place) == []
        assert not place.directory.exists()
        assert not list(namespaces.ETC_NETNS.glob(f"{place.prefix}*"))
        assert not network.destroy(place)
    finally:
        lab.kill()
        network.destroy(place)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def packet(family: int, source: str, target: str) -> bytes:
    """The part of an IP header that the weather looks at."""
    if family == 4:
        return b"\x45" + bytes(11) + packed(source) + packed(target)
    return b"\x60" + bytes(7) + packed(source) + packed(target)
