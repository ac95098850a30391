"""The lab without its daemons: namespaces, the Internet host's services, the router's weather, captures."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from anonnet.audit.pcap import trim
from anonnet.errors import OperatorError
from anonnet.lab import namespaces, services, weatherd
from anonnet.lab.place import CORE, WEB, Place
from anonnet.lab.topology import Topology
from anonnet.lab.weather import Rule

SNAPLEN: Final = 64  # bytes: Ethernet, IPv6 and ports; payload is ciphertext anyway
# A second and a half of t3 at this snaplen. Not more: the kernel clears all of it in one go, and on a guest
# machine whose memory comes page by page, 64 MB stalled even real-time processes for 170 ms (33 ticks of t3).
CAPTURE_BUFFER_KIB: Final = 2048
RETIRE_SECONDS: Final = 1.2  # the kernel hands tcpdump a block of packets once full, or after a second
READY_SECONDS: Final = 20.0


def require_root() -> None:
    """Raise OperatorError unless this process may make network namespaces, and enter them."""
    if os.geteuid() != 0:
        raise OperatorError("the lab makes network namespaces", "run it as root, for instance with sudo")


def load(place: Place) -> Topology:
    """Return the lab that is up in this place; OperatorError if none is."""
    try:
        return msgspec.json.decode(place.record.read_bytes(), type=Topology)
    except FileNotFoundError:
        raise OperatorError("no lab is up", "start one with: anonnet-tun lab up") from None
    except msgspec.DecodeError:
        raise OperatorError(f"cannot read {place.record}", "clear up with: anonnet-tun lab down") from None


def create(place: Place, topology: Topology) -> None:
    """Make the namespaces and start the Internet host. OperatorError if a lab, or its remains, is there."""
    require_root()
    if place.record.exists() or namespaces.existing(place):
        raise OperatorError("a lab is already up", "end it with `anonnet-tun lab down`, or use --replace")
    missing = [tool for tool in ("ip", "tcpdump", "iperf3") if shutil.which(tool) is None]
    if missing:
        raise OperatorError(f"not installed: {', '.join(missing)}", f"apt-get install {_packages(missing)}")
    place.directory.mkdir(parents=True, exist_ok=True)
    for host in (CORE, *(host.name for host in topology.hosts)):
        place.of(host).mkdir(exist_ok=True)
    # Recorded first: a lab that is killed while it comes up can still be found.
    place.record.write_bytes(msgspec.json.format(msgspec.json.encode(topology)))
    namespaces.create(place, topology)
    web, directory = topology.web, place.of(WEB)
    command = [sys.executable, "-m", "anonnet.lab.web", str(directory), str(web.ipv4), str(web.ipv6)]
    process = services.start(place, WEB, "web", command)
    services.start(place, WEB, "iperf3", ["iperf3", "-s"])
    log = directory / "web.log"
    ready = directory / "ready"
    services.wait_for(ready.exists, READY_SECONDS, "the web host does not come up", log, process)


def destroy(place: Place) -> bool:
    """Remove the lab and all that a killed one left behind; tell whether there was anything. Idempotent."""
    if os.geteuid() != 0 and (place.record.exists() or namespaces.existing(place)):
        raise OperatorError("the lab belongs to root", "run this as root, for instance with sudo")
    removed = namespaces.destroy(place)
    there = place.directory.exists()
    if there:
        shutil.rmtree(place.directory)
    return bool(removed) or there


def execute(place: Place, host: str, command: Sequence[str]) -> int:
    """Run a command on a host, on this terminal; return its exit code as a shell would."""
    host = _known(place, host)
    command = namespaces.inside(place, host, command)
    code = subprocess.run(command, env=services.environment(place, host), check=False).returncode
    return 128 - code if code < 0 else code


def set_weather(place: Place, rule: Rule, hosts: Iterable[str] = (), *, everything: bool = False) -> None:
    """Send packets between nodes through `rule` from now on, or only those to and from `hosts`."""
    topology = load(place)
    clear_weather(place)
    directory = place.of(CORE)
    (directory / "weather.json").write_bytes(msgspec.json.encode(rule))
    process = services.start(
        place, CORE, "weather", [sys.executable, "-m", "anonnet.lab.weatherd", str(directory)]
    )
    ready, log = directory / "ready", directory / "weather.log"
    services.wait_for(ready.exists, READY_SECONDS, "the weather does not start", log, process)
    chosen = [topology.host(place.host(name)) for name in hosts] or None
    for family in weatherd.FAMILIES:
        batch = weatherd.detour(family, chosen, everything=everything)
        namespaces.ip(batch, place.namespace(CORE), family)


def clear_weather(place: Place) -> dict[str, int]:
    """Let packets pass the router directly again; return what the weather did until now."""
    for family in weatherd.FAMILIES:
        for line in weatherd.undo_detour():
            with contextlib.suppress(OperatorError):  # no rule of ours is left
                while True:
                    namespaces.ip([line], place.namespace(CORE), family)
    services.stop(place, CORE, "weather", signal.SIGTERM)
    counts = weather_counts(place)
    for name in ("ready", "weather.json", "counts.json"):
        (place.of(CORE) / name).unlink(missing_ok=True)
    return counts


def weather_counts(place: Place) -> dict[str, int]:
    """Return how many packets were received, dropped, duplicated, reordered and sent (a second ago)."""
    with contextlib.suppress(FileNotFoundError):
        return msgspec.json.decode((place.of(CORE) / "counts.json").read_bytes(), type=dict[str, int])
    return {}


class Capture:
    """tcpdump on a host's eth0 (on core: every port) into a pcap file; also a context manager.

    The file holds exactly the packets between the end of the constructor and the call of `stop`.
    """

    def __init__(
        self, place: Place, host: str, path: Path, *, snaplen: int = SNAPLEN, expression: str = ""
    ) -> None:
        self.dropped = 0  # packets that the kernel did not hand to tcpdump: the capture then proves nothing
        self.captured = 0
        host = _known(place, host)
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["tcpdump", "-i", "any" if host == CORE else "eth0", "-w", str(path), "-s", str(snaplen)]
        command += ["-n", "-p", "-Z", "root", "-B", str(CAPTURE_BUFFER_KIB), "--time-stamp-precision=nano"]
        self._process = subprocess.Popen(
            namespaces.inside(place, host, [*command, *expression.split()]),
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        first = self._stderr.readline()
        while first and "listening on" not in first:
            last, first = first, self._stderr.readline()
            if not first:
                self._process.wait()
                raise OperatorError(f"tcpdump on {host} failed: {last.strip()}", "check the file's directory")
        self._path = path
        self._began = time.time_ns()

    def stop(self) -> None:
        """End the capture; the file is then complete."""
        ended = time.time_ns()
        if self._process.poll() is None:
            time.sleep(RETIRE_SECONDS)
            self._process.send_signal(signal.SIGINT)
            said = self._stderr.read()
            self._process.wait()
            found = re.search(r"(\d+) packets? dropped by kernel", said)
            self.dropped = int(found[1]) if found else 0
            self.captured = trim(self._path, self._began, ended)
        self._stderr.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _known(place: Place, name: str) -> str:
    """Return the host's short name; OperatorError if the lab has no such host."""
    host = place.host(name)
    return host if host == CORE else load(place).host(host).name


def _packages(tools: Iterable[str]) -> str:
    return " ".join({"ip": "iproute2"}.get(tool, tool) for tool in tools)
