"""What `make lab` runs: build a lab, show that it does what it promises, remove it.

Each step prints one line that says what it proves, and fails with what was seen instead. Nothing is left
behind, whether it holds, fails or is interrupted.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from anonnet.audit import wire
from anonnet.audit.pcap import Trace, read
from anonnet.audit.picture import picture
from anonnet.errors import AnonNetError, OperatorError
from anonnet.lab import namespaces, network, nodes, services
from anonnet.lab.content import content_sha256, size_of
from anonnet.lab.place import CALLER, CORE, WEB, Place
from anonnet.lab.stalls import Stall, StallWatch
from anonnet.lab.topology import Host, Topology
from anonnet.node import api
from anonnet.proto.profile import parse_profile

FILE: Final = "20MB.bin"
COMMAND_SECONDS: Final = 120.0  # for anything that is run on a host, but downloads
STALLED_SHARE: Final = 0.05  # of ticks that may be left out because the machine itself stood still
CAPTURE_LEAD: Final = 0.5  # seconds between the start of a load and its capture


class Demo:
    """The steps, in order; each method proves one thing or raises OperatorError."""

    def __init__(self, place: Place, topology: Topology, seconds: float, console: Console) -> None:
        self.place = place
        self.topology = topology
        self.seconds = seconds
        self.console = console
        self.directory = place.directory / "demo"
        self.stalls: dict[str, list[Stall]] = {}  # of the machine, during each capture
        self.before: dict[str, str] = {}  # the caller's rules, routes, firewall and DNS before `up`
        rate = parse_profile(topology.rate)
        self.schedule = rate.schedule(topology.transport, topology.ip)
        self.slowest = min(rate.rate_out, rate.rate_in)  # bit/s

    # -- steps ------------------------------------------------------------------------------------

    def nodes_up(self) -> str:
        """Build the network and start its daemons."""
        nodes.bring_up(self.place, self.topology)
        self.directory.mkdir()
        links = len(self.topology.links)
        return f"{len(self.topology.nodes)} nodes up, {links} links at {self.topology.rate}"

    def idle(self) -> str:
        """Capture the caller's wire while nobody has anything to say."""
        self._capture("idle")
        return f"captured {self.seconds:g} s of the caller's wire, idle, before `anonnet-tun up`"

    def circuit(self) -> str:
        """Build the circuit with the operator's own command, and name its hops."""
        self.before = self._host_state()
        self._run("anonnet-tun", "up", "--wait", "60")
        report = msgspec.json.decode(self._run("anonnet-tun", "status", "--json"), type=api.Status)
        names = nodes.names(self.place)
        routes = [[names.get(hop, hop) for hop in route.hops] for c in report.circuits for route in c.routes]
        _demand(report.state == "up" and bool(routes), f"the state is {report.state}, routes are {routes}")
        short = [route for route in routes if len(route) != self.topology.hops]
        _demand(not short, f"a route has other than {self.topology.hops} hops: {short}")
        return f"circuit built, {self.topology.hops} hops: {'; '.join(' - '.join(route) for route in routes)}"

    def page(self) -> str:
        """Fetch a page by name: DNS, TCP and HTTP through the circuit."""
        body = self._run("curl", "-sS", "--fail", "--max-time", "60", "http://web.lab/")
        _demand("web.lab" in body, f"the page was {body[:80]!r}")
        return f"a page of {len(body)} bytes by plain curl from http://web.lab/"

    def download(self) -> str:
        """Fetch a file and compare its checksum with the one that follows from its name."""
        name = FILE if self.slowest > 1_000_000 else "20kB.bin"
        size = size_of(name) or 0
        patience = 60 + 4 * 8 * size / self.slowest
        target = self.directory / name
        began = time.monotonic()
        options = ["-sS", "--fail", "--max-time", f"{patience:.0f}", "-o", str(target)]
        self._run("curl", *options, f"http://web.lab/{name}", patience=patience)
        took = time.monotonic() - began
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        _demand(found == content_sha256(name), f"{name} has another SHA-256: {found}")
        goodput = 8 * size / took
        share = goodput / self.slowest
        return f"{name} by plain curl, SHA-256 matches; {goodput / 1e6:.1f} Mbit/s, {share:.0%} of the wire"

    def ping(self) -> str:
        """Ping the Internet host over IPv4 and IPv6."""
        said = []
        for ip in (self.topology.web.ipv4, self.topology.web.ipv6):
            lines = self._run("ping", "-n", "-c", "5", "-i", "0.3", "-W", "5", str(ip)).splitlines()
            average = next((line.split("/")[4] for line in lines if "min/avg" in line), None)
            _demand(average is not None, f"no answer from {ip}")
            said.append(f"{ip} in {average} ms")
        return f"ping: {', '.join(said)}"

    def names(self) -> str:
        """Resolve web.lab as any program would, and see that the exit asked."""
        found = {line.split()[0] for line in self._run("getent", "ahosts", "web.lab").splitlines()}
        wanted = {str(self.topology.web.ipv4), str(self.topology.web.ipv6)}
        _demand(found == wanted, f"web.lab is {found}, not {wanted}")
        return f"DNS: web.lab is {' and '.join(sorted(found))}"

    def unseen(self) -> str:
        """See that the Internet host met the exits only."""
        log = (self.place.of(WEB) / "access.log").read_text().splitlines()
        clients = {json.loads(line)["client"] for line in log}
        exits = {
            str(ip) for host in self.topology.nodes for ip in (host.ipv4, host.ipv6) if host.role == "exit"
        }
        _demand(bool(clients) and clients <= exits, f"the web host saw {sorted(clients)}")
        return f"the web host's log names {' and '.join(sorted(clients))}: the exit, never the caller"

    def loaded(self) -> str:
        """Capture the caller's wire, and the router's, during a saturating download."""
        process = subprocess.Popen(
            namespaces.inside(self.place, CALLER, ["curl", "-sS", "-o", "/dev/null", self._endless()]),
            env=services.environment(self.place, CALLER),
            stdin=subprocess.DEVNULL,
        )
        try:
            time.sleep(CAPTURE_LEAD)
            self._capture("loaded")
            _demand(process.poll() is None, "the download ended before the capture did")
        finally:
            process.kill()
            process.wait()
        return f"captured {self.seconds:g} s of the caller's wire during a saturating download"

    def constant(self) -> str:
        """Compare both captures, direction by direction, and draw them."""
        idle, loaded = (read(self.directory / f"{name}.pcap") for name in ("idle", "loaded"))
        caller = self.topology.host(CALLER)
        for name in self.topology.neighbours(CALLER):
            self._compare(caller, self.topology.host(name), idle, loaded)
        nodes_ = [str(ip) for host in self.topology.nodes for ip in (host.ipv4, host.ipv6)]
        for name, trace in (("idle", idle), ("loaded", loaded)):
            self._judge(wire.nothing_else(trace, nodes_), f"{name}: ")
        web = self.topology.web
        core = read(self.directory / "core.pcap")
        ends = [[str(host.ipv4), str(host.ipv6)] for host in (caller, web)]
        self._judge(wire.never_meet(core, *ends))
        return "idle and loaded look the same from outside"

    def down(self) -> str:
        """Put the caller back on the plain Internet."""
        self._run("anonnet-tun", "down")
        now = self._host_state()
        differs = [what for what, text in self.before.items() if now[what] != text]
        _demand(not differs, f"`down` left other {', '.join(differs)} than before")
        self._run("curl", "-sS", "--fail", "--max-time", "10", "http://web.lab/")
        last = json.loads((self.place.of(WEB) / "access.log").read_text().splitlines()[-1])["client"]
        caller = self.topology.host(CALLER)
        _demand(last in (str(caller.ipv4), str(caller.ipv6)), f"after `down` the web host saw {last}")
        return "`anonnet-tun down`: rules, routes, firewall and DNS byte for byte as before `up`"

    # -- helpers ----------------------------------------------------------------------------------

    def _run(self, *command: str, patience: float = COMMAND_SECONDS) -> str:
        """Run a command on the caller and return what it printed; OperatorError if it fails."""
        try:
            done = subprocess.run(
                namespaces.inside(self.place, CALLER, command),
                env=services.environment(self.place, CALLER),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience + 30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OperatorError(f"{command[0]} on the caller does not end", " ".join(command)) from None
        _demand(not done.returncode, f"`{' '.join(command)}` exits {done.returncode}: {done.stderr.strip()}")
        return str(done.stdout)

    def _capture(self, name: str) -> None:
        """Capture the caller's wire and the router's ports; OperatorError if packets were missed."""
        with (
            # Link datagrams fill most of the router; what matters there is everything else.
            network.Capture(
                self.place,
                CORE,
                self.directory / "core.pcap",
                expression=f"host {self.topology.web.ipv4} or host {self.topology.web.ipv6}",
            ) as core,
            StallWatch() as watch,
            network.Capture(self.place, CALLER, self.directory / f"{name}.pcap") as outer,
        ):
            time.sleep(self.seconds)
        missed = outer.dropped + core.dropped
        _demand(not missed, f"the kernel dropped {missed} packets of the capture")
        self.stalls[name] = watch.stalls

    def _host_state(self) -> dict[str, str]:
        """Return what `up` changes on the caller, as text."""
        commands = {
            "rules": "ip rule; ip -6 rule",
            "routes": "ip route show table all; ip -6 route show table all",
            "firewall": "nft -s list ruleset",
            "DNS": "cat /etc/resolv.conf",
        }
        return {what: self._run("sh", "-ec", command) for what, command in commands.items()}

    def _endless(self) -> str:
        """Return the URL of a file that takes longer than the capture."""
        megabytes = int(self.slowest * (self.seconds + CAPTURE_LEAD) * 2 / 8 / 1e6) + 1
        return f"http://web.lab/{megabytes}MB"

    def _compare(self, caller: Host, peer: Host, idle: Trace, loaded: Trace) -> None:
        ip = f"ipv{self.topology.ip}"
        here, there = str(getattr(caller, ip)), str(getattr(peer, ip))
        ends = {"out": (here, there), "in": (there, here)}
        cells = {"out": self.schedule.cells_out, "in": self.schedule.cells_in}
        streams = {}
        for direction, (src, dst) in ends.items():
            one, other = (
                wire.stream(trace.between(src, dst), self.schedule.tick_ns) for trace in (idle, loaded)
            )
            streams[direction] = (one, other)
        title = f"the wire between {caller.name} and {peer.name}, datagrams per tick"
        self.console.print(picture(title, streams, cells), soft_wrap=True)
        for direction, (one, other) in streams.items():
            pair = (self._unstalled(one, "idle"), self._unstalled(other, "loaded"))
            for finding in wire.compare(*pair, cells[direction]):
                self._judge(finding, f"{direction}: ")

    def _unstalled(self, stream: wire.Stream, name: str) -> wire.Stream:
        """Leave out the ticks during which this machine stood still, if they are few; say how many."""
        rest = stream.without(self.stalls[name])
        lost = len(stream.counts) - len(rest.counts)
        _demand(
            lost <= STALLED_SHARE * len(stream.counts), f"the machine stood still for {lost} ticks, {name}"
        )
        if lost:
            text = f"left out {lost} of {len(stream.counts)} ticks, {name}: this machine itself stood still"
            self.console.print(f"       {text}", highlight=False)
        return rest

    def _judge(self, finding: wire.Finding, where: str = "") -> None:
        _demand(finding.held, f"{where}not {finding.claim}: {finding.numbers}")
        self.console.print(f"       {where}{finding.claim}: {finding.numbers}", highlight=False)


def run(place: Place, topology: Topology, seconds: float) -> bool:
    """Run the whole demonstration and clear up; return whether all of it held."""
    console = Console(soft_wrap=True)
    demo = Demo(place, topology, seconds, console)
    steps = (demo.nodes_up, demo.idle, demo.circuit, demo.page, demo.download, demo.ping, demo.names)
    with _cleaned(place, console):
        for step in (*steps, demo.unseen, demo.loaded, demo.constant, demo.down):
            try:
                text = step()
            except AnonNetError as error:
                console.print(f"[red]failed[/] {step.__name__}: ", end="")
                console.print(str(error), markup=False, highlight=False)
                if isinstance(error, services.LabError):
                    console.print(error.log, markup=False, highlight=False)
                _show_logs(place, topology, console)
                return False
            console.print(f"[green]shown[/]  {text}", highlight=False)
    return True


@contextmanager
def _cleaned(place: Place, console: Console) -> Iterator[None]:
    """Remove what a killed lab left before, and this lab after, whatever happens."""
    network.destroy(place)
    try:
        yield
    finally:
        network.destroy(place)
        left = [
            *namespaces.existing(place),
            *([str(place.directory)] if place.directory.exists() else []),
        ]
        console.print(f"[green]shown[/]  cleaned up: {', '.join(left) or 'nothing'} left", highlight=False)


def _show_logs(place: Place, topology: Topology, console: Console) -> None:
    """Print the end of each node's log, since the lab is about to go."""
    for host in topology.nodes:
        log: Path = place.of(host.name) / "node.log"
        if log.exists():
            console.print(f"--- {host.name}\n{services.tail(log)}", markup=False, highlight=False)


def _demand(condition: bool, otherwise: str) -> None:
    if not condition:
        raise OperatorError(otherwise, "the logs of the nodes follow")
