"""The units under a real systemd: at boot, killed, hung, shut down; the wire watched from the first packet.

a Debian booted by nspawn ======= core ---- r1 ---- r2 ---- x1 ~~~ web        core serves DHCP on the watched
  eth0, in the caller's namespace   port; watched                             port, as a provider does
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from anonnet.crypto.keys import KEYS_FILE
from anonnet.lab import namespaces, services
from anonnet.lab.place import CALLER, CORE
from anonnet.proto.profile import parse_profile
from tests.lab.live import SLOW, WEB4, WEB6, LiveLab, again, live, until
from tests.leaks.capture import Wire
from tests.leaks.probes import FIRST_PORT, TOKEN
from tests.systemd import tree
from tests.systemd.guest import BOOT_SECONDS, Guest

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

OWN, ROUTER = "100.64.0.2", "100.64.0.1"
OWN6, ROUTER6 = "3fff::2", "3fff::1"
# What a program on the guest tries from the first moment on: kind, address, port.
PROBES: Final = (
    ("tcp", WEB4, 80), ("udp", WEB4, 4000), ("icmp", WEB4, 0), ("udp", WEB4, 53), ("udp", ROUTER, 53),
    ("udp", ROUTER, 4000), ("tcp", WEB6, 80), ("udp", WEB6, 4000), ("udp", ROUTER6, 53),
    ("packet socket", "", 0),
)  # fmt: skip
NAMES: Final = {n: f"{kind} to {address} {port}" for n, (kind, address, port) in enumerate(PROBES)}
INTERFACES: Final = f"""\
auto lo
iface lo inet loopback
auto eth0
iface eth0 inet dhcp
iface eth0 inet6 static
    address {OWN6}/64
    gateway {ROUTER6}
    dad-attempts 0
"""
PROBER: Final = """\
[Unit]
DefaultDependencies=no
Before=network-pre.target
[Service]
ExecStart=/usr/bin/python3 /root/prober.py '{}'
Restart=always
[Install]
WantedBy=sysinit.target
"""
RATE: Final = "t1"
EXPOSURE: Final = 3.0
PROXY: Final = "socks5h://127.0.0.1:1080"


@pytest.fixture(scope="module")
def base() -> Path:
    return tree.build()


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    """A lab whose caller has left its namespace, address and place in the network to the guest."""
    with live("sysd", chain=True, rate=RATE) as lab:
        services.stop(lab.place, CALLER, "node", signal.SIGTERM, SLOW)
        away = ["addr flush dev eth0", "neigh flush dev eth0 nud permanent", "link set eth0 down"]
        namespaces.ip(away, lab.place.namespace(CALLER))
        services.start(lab.place, CORE, "dhcp", [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--leasefile-ro",
            f"--pid-file={lab.place.of(CORE)}/dnsmasq.pid", "--port=0", f"--interface={CALLER}",
            "--dhcp-authoritative", f"--dhcp-range={OWN},{OWN},255.255.255.0,120",
            f"--dhcp-option=option:router,{ROUTER}", f"--dhcp-option=option:dns-server,{WEB4}",
        ])  # fmt: skip
        yield lab


@pytest.fixture(scope="module")
def wire(lab: LiveLab) -> Iterator[Wire]:
    links = [(OWN, lab.address("r1"))]
    length = parse_profile(RATE).format.datagram_len + 20
    wire = Wire(lab.place.namespace(CORE), CALLER, links, [length], NAMES)
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def guest(lab: LiveLab, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that is set up as vagrant/ does it: `init`, then peers.sh with the others' invites."""
    guest = Guest(base, tmp_path_factory.mktemp("guest"), lab.place.namespace(CALLER))
    try:
        guest.write("/etc/hostname", "caller\n")
        guest.write("/etc/network/interfaces", INTERFACES)
        mac = lab.out(CORE, "cat", f"/sys/class/net/{CALLER}/address").strip()
        probes = [[n, *probe] for n, probe in enumerate(PROBES)]
        guest.write("/etc/systemd/system/prober.service",
                    PROBER.format(json.dumps([probes, TOKEN.decode(), FIRST_PORT, mac])))  # fmt: skip
        shutil.copy(Path(__file__).with_name("prober.py"), guest.root / "root")
        # The lab's nodes know their caller by these.
        shutil.copy(lab.place.of(CALLER) / "state" / KEYS_FILE, guest.root / "var/lib/anonnet")
        tree.run(guest.root, "systemctl", "-q", "enable", "prober")
        address = ["--address", f"raw:{OWN}", "--profile", RATE]
        tree.run(guest.root, "anonnet-tun", "init", "--name", "caller", *address)
        peers = lab.place.config(CALLER).read_text()
        with guest.booted():
            guest.out("/anonnet/vagrant/peers.sh", text=peers[peers.index("[[peers]]") :])
            until(lambda: links_up(guest), BOOT_SECONDS, "the guest's links")
        yield guest
    finally:
        guest.close()


def links_up(guest: Guest) -> bool:
    return guest.unit("anonnet", "StatusText").startswith("1 of 1 links up")


def restarts(guest: Guest, unit: str = "anonnet") -> int:
    """How often systemd has started a unit again since the boot."""
    return int(guest.unit(unit, "NRestarts"))


def wait_up(guest: Guest) -> None:
    done = guest.run("anonnet-tun", "wait", "--timeout", "60")
    assert done.returncode == 0, f"{done.stderr}\n{guest.log('anonnet-tun')}\n{guest.log('anonnet')}"


def fetches(guest: Guest, lab: LiveLab) -> None:
    """Fetch a page through the tunnel: the Internet host saw the exit, not the guest."""
    seen = len(lab.access_log())
    command = ("curl", "-sS", "--fail", "-m", "20", "-o", "/dev/null", "http://web.lab/")
    done = again(lambda: guest.run(*command), lambda done: done.returncode == 0)
    assert done.returncode == 0, done.stderr
    new = lab.access_log()[seen:]
    assert lab.address("x1") in new, new
    assert OWN not in new


def leaked(wire: Wire) -> dict[str, int]:
    assert not wire.dropped(), "the capture lost packets and proves nothing"
    return dict(wire.leaks)


def test_units_are_sound(base: Path) -> None:
    names = sorted(path.name for path in (tree.ROOT / "systemd").glob("*.service"))
    assert names == [f"anonnet{name}.service" for name in ("-lockdown", "-socks", "-tun", "")]
    units = [f"/usr/local/lib/systemd/system/{name}" for name in names]
    assert tree.run(base, "sh", "-c", f"systemd-analyze verify {' '.join(units)} 2>&1") == ""
    for serves in (units[1], units[3]):
        said = tree.run(base, "systemd-analyze", "security", "--offline=true", serves)
        exposure = float(said.splitlines()[-1].split(": ")[1].split()[0])
        assert exposure <= EXPOSURE, said


def test_without_lockdown_the_wire_shows_every_probe_of_the_boot(guest: Guest, wire: Wire) -> None:
    wire.start()
    with guest.booted():
        until(lambda: links_up(guest), BOOT_SECONDS, "the node, started at boot")
        unseen = [NAMES[n] for n in NAMES if not wire.probes[n]]
        assert not unseen, "these probes prove nothing, since they are not seen when nothing is up"
        assert guest.unit("anonnet", "NRestarts") == "0"
        assert guest.unit("anonnet-lockdown", "ConditionResult") == "no"


def test_the_proxy_comes_back_whatever_dies_and_leaves_nothing(guest: Guest, lab: LiveLab) -> None:
    def fetched() -> bool:
        page = ("-o", "/dev/null", "http://web.lab/")
        return not guest.run("curl", "-sS", "--fail", "-m", "20", "--proxy", PROXY, *page).returncode

    def network() -> list[str]:
        return [guest.out("nft", "list", "tables"), *(guest.out("ip", v, "rule") for v in ("-4", "-6"))]

    with guest.booted():
        until(lambda: links_up(guest), BOOT_SECONDS, "the node, started at boot")
        before, seen = network(), len(lab.access_log())
        guest.out("systemctl", "start", "anonnet-socks")
        assert guest.unit("anonnet-socks", "StatusText") == "at 127.0.0.1:1080, through anonsocks0"
        until(fetched, BOOT_SECONDS, "the proxy to serve")
        new = lab.access_log()[seen:]
        assert lab.address("x1") in new
        assert OWN not in new

        guest.kill("anonnet-socks", signal.SIGKILL)
        until(lambda: restarts(guest, "anonnet-socks") > 0, BOOT_SECONDS, "a restart of the killed proxy")
        until(fetched, BOOT_SECONDS, "the proxy to serve again")
        first = restarts(guest, "anonnet-socks")
        guest.kill("anonnet", signal.SIGKILL)
        until(lambda: restarts(guest, "anonnet-socks") > first, BOOT_SECONDS, "the proxy's end with its node")
        until(fetched, BOOT_SECONDS, "the proxy to serve again")

        guest.out("systemctl", "stop", "anonnet-socks")
        assert guest.unit("anonnet-socks", "Result") == "success"
        assert network() == before


def test_from_the_first_packet_of_a_boot_to_the_last_before_off(
    guest: Guest, lab: LiveLab, wire: Wire
) -> None:
    with guest.booted():
        until(lambda: links_up(guest), BOOT_SECONDS, "the links")
        guest.out("anonnet-tun", "lockdown", "on")
        guest.out("systemctl", "-q", "enable", "anonnet-tun")
    wire.start()
    with guest.booted():
        wait_up(guest)
        fetches(guest, lab)
        assert wire.allowed["link"]
        assert wire.allowed["dhcp"]
        assert leaked(wire) == {}, "at boot"
        warden = guest.out("cat", "/run/anonnet/warden.pid").split()[0]
        assert guest.out("cat", f"/proc/{warden}/cgroup").strip().endswith("/anonnet-tun.service")

        guest.kill("anonnet", signal.SIGKILL)
        until(lambda: restarts(guest) > 0, BOOT_SECONDS, "a restart of the killed node")
        until(lambda: links_up(guest), BOOT_SECONDS, "its links")
        wait_up(guest)
        fetches(guest, lab)
        assert leaked(wire) == {}, "around the death of the node"

        before = restarts(guest)
        hang_data_plane(guest)
        until(lambda: restarts(guest) > before, BOOT_SECONDS, "the watchdog to end a node that hangs")
        until(lambda: links_up(guest), BOOT_SECONDS, "its links")
        wait_up(guest)
        assert leaked(wire) == {}, "around a hung data plane"

        guest.kill("anonnet-tun", signal.SIGKILL)
        until(lambda: restarts(guest, "anonnet-tun") > 0, BOOT_SECONDS, "a restart of the killed service")
        until(lambda: guest.unit("anonnet-tun", "StatusText") == "up", BOOT_SECONDS, "what it says")
        wait_up(guest)
        fetches(guest, lab)
        assert leaked(wire) == {}, "around the death of what keeps the host up"

        guest.out("systemctl", "stop", "anonnet-tun")
        assert "blocked" in guest.run("anonnet-tun", "status").stdout
        guest.out("systemctl", "start", "anonnet-tun")
        wait_up(guest)
        guest.out("anonnet-tun", "lockdown", "off")  # which must not be what closes the host from now on
    assert leaked(wire) == {}, "until the machine was off"
    assert wire.allowed["link"] > 1000


def test_with_a_configuration_that_is_spoilt_lockdown_lets_not_even_links_pass(
    guest: Guest, wire: Wire
) -> None:
    path = "/etc/anonnet/anonnet.toml"
    good = (guest.root / path[1:]).read_text()
    with guest.booted():
        guest.out("anonnet-tun", "lockdown", "on")
    guest.write(path, "[node")
    wire.start()
    with guest.booted():
        until(guest.finished_booting, BOOT_SECONDS, "the end of the boot")
        assert guest.unit("anonnet-lockdown", "Result") == "exit-code"
        guest.write(path, good)
    assert leaked(wire) == {}
    assert wire.allowed["dhcp"]
    assert not wire.allowed["link"]


def hang_data_plane(guest: Guest) -> None:
    """Stop the process that has real-time priority, as a bug in it would."""
    main = guest.unit("anonnet", "MainPID")
    children = guest.out("cat", f"/proc/{main}/task/{main}/children").split()
    # proc(5): the 41st field of stat is the policy, 1 SCHED_FIFO
    policies = {pid: guest.out("cat", f"/proc/{pid}/stat").rsplit(")")[-1].split()[38] for pid in children}
    found = [pid for pid, policy in policies.items() if policy == "1"]
    assert len(found) == 1
    guest.out("sh", "-c", f"kill -STOP {found[0]}")


def test_a_package_is_made_twice_and_taken_back(guest: Guest) -> None:
    make = "make -C /anonnet {} DESTDIR=/made PREFIX=/usr OPT=/usr/lib/anonnet PIP_ARGS=--no-compile"
    for _ in range(2):
        tree.run(guest.root, "sh", "-ec", make.format("install"), options=tree.offline())
    made = guest.root / "made"
    unit = (made / "usr/lib/systemd/system/anonnet.service").read_text()
    assert "\nExecStart=/usr/bin/anonnet-tun run" in unit
    assert "/usr/local" not in unit
    assert (made / "usr/bin/anonnet-tun").readlink() == Path("/usr/lib/anonnet/bin/anonnet-tun")
    first = (made / "usr/lib/anonnet/bin/anonnet-tun").read_text().splitlines()[0]
    assert first == "#!/usr/lib/anonnet/bin/python"
    tree.run(guest.root, "sh", "-ec", make.format("uninstall"))
    left = [str(path.relative_to(made)) for path in made.rglob("*") if not path.is_dir()]
    assert left == []


def test_install_and_uninstall(guest: Guest) -> None:
    with guest.booted():
        guest.out("anonnet-tun", "lockdown", "on")
        assert "  boot          lockdown begins before" in guest.run("anonnet-tun", "doctor").stdout
        guest.out("systemctl", "-q", "disable", "anonnet-lockdown")
        assert "! boot          lockdown is on, but" in guest.run("anonnet-tun", "doctor").stdout
        refused = guest.run("make", "-C", "/anonnet", "uninstall")
        assert refused.returncode != 0
        assert "lockdown off" in refused.stderr
        assert guest.run("anonnet-tun", "--version").returncode == 0
        guest.out("anonnet-tun", "lockdown", "off")
        guest.out("anonnet-tun", "down")
        for _ in range(2):
            guest.out("make", "-C", "/anonnet", "uninstall")
        gone = ("/opt/anonnet", "/usr/local/bin/anonnet-tun", "/usr/local/lib/systemd/system/anonnet.service")
        stays = ("/etc/anonnet/anonnet.toml", f"/var/lib/anonnet/{KEYS_FILE}")
        assert [path for path in gone if (guest.root / path[1:]).exists()] == []
        assert [path for path in stays if not (guest.root / path[1:]).exists()] == []
        guest.out("make", "-C", "/anonnet", "uninstall", "PURGE=1")
        assert [path for path in stays if (guest.root / path[1:]).exists()] == []
        assert guest.run("id", "anonnet").returncode != 0
