"""What cannot work says so in one line, with the way to mend it, and leaves the host as it was to the byte.

caller ---- r1 ---- r2 ---- x1 ~~~ web        each case runs where it hurts, mostly on the caller
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anonnet.crypto.keys import NodeKeys
from anonnet.lab import network, services
from anonnet.lab.place import CALLER
from anonnet.lab.weather import Rule
from anonnet.node.config import parse
from anonnet.node.invite import own_invite
from tests.lab.live import SLOW, LiveLab, live, until

pytestmark = pytest.mark.root

LINE = re.compile(r"anonnet-tun: \S.+: \S.+|anonnet-tun: \S.+; \S.+|anonnet-tun: \S.+ \(\S.+\)")


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("refuse", chain=True) as up:
        up.settle()
        yield up


@contextmanager
def unchanged(lab: LiveLab, host: str = CALLER) -> Iterator[None]:
    """Nothing of the host differs after the block."""
    before = lab.host_state(host)
    assert "default" in before["routes"]
    yield
    after = lab.host_state(host)
    assert {what: text for what, text in after.items() if before[what] != text} == {}


def refused(lab: LiveLab, host: str, hint: str, *command: str) -> str:
    """Run a command that must fail: not zero, one line of error, which says `hint`; return the line."""
    done = lab.run(host, *command)
    assert done.returncode != 0, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert LINE.fullmatch(lines[0]), lines[0]
    assert hint in lines[0], lines[0]
    return lines[0]


@contextmanager
def configuration(lab: LiveLab, host: str, *changes: tuple[str, str]) -> Iterator[Path]:
    """A configuration of the host's with texts replaced, as a file of its own."""
    text = lab.place.config(host).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = lab.place.of(host) / "changed.toml"
    path.write_text(text)
    try:
        yield path
    finally:
        path.unlink()


@contextmanager
def stopped(lab: LiveLab, host: str) -> Iterator[None]:
    """The node of a host ends for the length of a block."""
    services.stop(lab.place, host, "node", signal.SIGTERM, SLOW)
    try:
        yield
    finally:
        lab.start(host)
        until(lab.links_up, SLOW, "links after the block")


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("[node]", "[node", "is not TOML"),
        ("[node]", "[node]\nnmae = 1", "did you mean name?"),
        ("hops = 3", "hops = 99", "caller.hops"),
        ("hops = 3", 'tun = "a-name-that-is-too-long"', "at most 15"),
        ('profile = "', 'profile = "some', "modem"),
        ('invite = "anonnet:', 'invite = "anonnet:AAAA', "copy all"),
        ("[links]", "[transport.x]\ny = 1\n[links]", "transport"),
        ("[caller]", "[data_plane]\nrealtime_priority = -1\n[caller]", "realtime_priority"),
        ("link = true", "link = false", "[[peers]]"),
    ],
)
@pytest.mark.parametrize("command", ["up", "run"])
def test_bad_configurations(lab: LiveLab, command: str, old: str, new: str, hint: str) -> None:
    with configuration(lab, CALLER, (old, new)) as path, unchanged(lab):
        refused(lab, CALLER, hint, "anonnet-tun", command, "-c", str(path))


def test_no_file_at_all(lab: LiveLab) -> None:
    with unchanged(lab):
        refused(lab, CALLER, "anonnet-tun init", "anonnet-tun", "up", "-c", "/nonexistent/anonnet.toml")


@pytest.mark.parametrize(
    ("gone", "command", "hint"),
    [
        ("-net_admin", "up", "sudo"),
        ("-net_raw", "run", "CAP_NET_RAW"),
        ("-net_admin", "run", "CAP_NET_ADMIN"),
        ("-ipc_lock", "run", "lock_memory"),
        ("-sys_nice", "run", "realtime_priority"),
    ],
)
def test_missing_capabilities(lab: LiveLab, gone: str, command: str, hint: str) -> None:
    less = ["setpriv", f"--bounding-set={gone}", f"--inh-caps={gone}"]
    if command == "up":
        with unchanged(lab):
            refused(lab, CALLER, hint, *less, "anonnet-tun", "up")
    else:
        with stopped(lab, CALLER), unchanged(lab):
            refused(lab, CALLER, hint, *less, "anonnet-tun", "run")


def test_an_occupied_tun_name(lab: LiveLab) -> None:
    lab.out(CALLER, "ip", "tuntap", "add", "anonnet0", "mode", "tun")
    try:
        with unchanged(lab):
            refused(lab, CALLER, "ip link del anonnet0", "anonnet-tun", "up")
    finally:
        lab.out(CALLER, "ip", "link", "del", "anonnet0")


def test_an_unreachable_peer(lab: LiveLab) -> None:
    network.set_weather(lab.place, Rule(drop=1.0), ["r1"])
    try:
        until(lambda: lab.link(CALLER, "r1").state != "up", SLOW, "the link does not miss r1")
        with unchanged(lab):
            said = refused(lab, CALLER, "anonnet-tun status", "anonnet-tun", "up", "--wait", "2")
        assert "no link is up" in said
        assert lab.link(CALLER, "r1").trouble
    finally:
        network.clear_weather(lab.place)
    until(lab.links_up, SLOW, "links after the storm")


def test_a_wrong_key(lab: LiveLab) -> None:
    """The caller has an invite with r1's address and another's key: r1 stays silent to it."""
    r1 = parse(lab.place.config("r1").read_bytes(), "r1")
    false = own_invite(r1, NodeKeys.generate(), [], int(time.time()))
    text = lab.place.config(CALLER).read_text()
    true = text[: text.index("link = true")].rsplit('invite = "', 1)[1].split('"')[0]  # of the one neighbour
    with (
        configuration(lab, CALLER, (true, false)) as path,
        stopped(lab, CALLER),
        lab.running(CALLER, "anonnet-tun", "run", "-c", str(path)) as daemon,
    ):
        until(lambda: lab.run(CALLER, "anonnet-tun", "peers").returncode == 0, SLOW, "the daemon")
        with unchanged(lab):
            refused(lab, CALLER, "no link is up", "anonnet-tun", "up", "-c", str(path), "--wait", "2")
        daemon.terminate()
        assert daemon.wait(SLOW) == 0


def test_a_full_link(lab: LiveLab) -> None:
    """The caller's circuit has all that r2's link with x1 has to give; r1 would be a second caller on it."""
    lab.up()
    try:
        with unchanged(lab, "r1"):
            said = refused(lab, "r1", "anonnet-tun status", "anonnet-tun", "up", "--hops", "2", "--wait", "8")
        assert "slots" in said
        assert lab.status().state == "up"
    finally:
        lab.down()
    lab.out("r1", "anonnet-tun", "up", "--hops", "2", "--wait", "60")  # the control: now there is room
    lab.out("r1", "anonnet-tun", "down")


@pytest.mark.parametrize(("exit_", "hint"), [("r2", "exit"), ("nobody", "peers")])
def test_no_such_exit(lab: LiveLab, exit_: str, hint: str) -> None:
    with unchanged(lab):
        refused(lab, CALLER, hint, "anonnet-tun", "up", "--exit", exit_, "--wait", "2")


def test_a_second_daemon(lab: LiveLab) -> None:
    with unchanged(lab):
        refused(lab, CALLER, "stop it", "anonnet-tun", "run")
    assert lab.links_up()


def test_no_daemon_and_no_user(lab: LiveLab) -> None:
    with stopped(lab, CALLER), unchanged(lab):
        refused(lab, CALLER, "anonnet-tun run", "anonnet-tun", "up")
        with configuration(lab, CALLER, ('"nobody"', '"no-such-user"')) as path:
            refused(lab, CALLER, "useradd", "anonnet-tun", "run", "-c", str(path))
