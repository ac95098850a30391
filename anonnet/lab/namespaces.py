"""The lab's machines: network namespaces, veths, addresses and routes.

    r1 eth0 -------- r1 |      |
    x1 eth0 -------- x1 | core | web -------- eth0 web        one veth for each host, a subnet for each veth
    ..                  |      |

`core` only forwards. What to do is pure text for `ip -batch`; `create` feeds it to ip, `destroy` needs
nothing but the names, so that it also clears what a killed lab left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from anonnet.errors import OperatorError
from anonnet.lab.place import CORE, Place
from anonnet.lab.topology import Host, Role, Topology

RUN_NETNS: Final = Path("/run/netns")
ETC_NETNS: Final = Path("/etc/netns")
TERM_SECONDS: Final = 5.0  # how long processes have to leave before they are killed

_SYSCTL_ALL: Final = {
    # A host that solicits routers or probes its address says things of its own on the wire.
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/router_solicitations": 0,
    "ipv6/conf/default/mldv2_unsolicited_report_interval": 0,
    # What 250 Mbit/s and a tenth of a second keep on their way is more than the 4 MiB that are usual.
    "ipv4/tcp_wmem": "4096 16384 33554432",
    "ipv4/tcp_rmem": "4096 131072 33554432",
}
_SYSCTL_CORE: Final = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv6/conf/default/forwarding": 1}


def create(place: Place, topology: Topology) -> None:
    """Make every namespace, cable and route, and each host's resolv.conf. OperatorError if ip refuses."""
    spaces = [place.namespace(name) for name in (CORE, *(host.name for host in topology.hosts))]
    ip([f"netns add {space}" for space in spaces])
    for space in spaces:
        sysctls = _SYSCTL_ALL | (_SYSCTL_CORE if space == place.namespace(CORE) else {})
        text = "; ".join(f"echo {value} > /proc/sys/net/{key}" for key, value in sysctls.items())
        _run(["ip", "netns", "exec", space, "sh", "-ec", text])
    ip(cables(place, topology.hosts))
    ip(router_batch(topology.hosts), place.namespace(CORE))
    for host in topology.hosts:
        space = place.namespace(host.name)
        ip(host_batch(host), space)
        etc = ETC_NETNS / space
        etc.mkdir(parents=True, exist_ok=True)
        # In place, and never renamed over: `ip netns exec` bind-mounts this very file over /etc/resolv.conf.
        (etc / "resolv.conf").write_text(f"# the provider's resolver\nnameserver {topology.web.ipv4}\n")


def cables(place: Place, hosts: Iterable[Host]) -> list[str]:
    """Return the commands that join each host's eth0 to a port of core named after the host.

    gso_max_segs 1: with segmentation offload a capture would show 64 kB packets that no real wire carries.
    The Internet host has that offload, as any server's adapter has: else each of its packets is a timer's
    interrupt and a walk through the router, on whatever core a node is busy (docs/performance.md).
    """
    core = place.namespace(CORE)
    made = []
    for host in hosts:
        limit = "" if host.role is Role.WEB else " gso_max_segs 1"
        made.append(
            f"link add name eth0 address {_mac(host, 2)} mtu 1500{limit} netns {place.namespace(host.name)}"
            f" type veth peer name {host.name} address {_mac(host, 1)} mtu 1500 netns {core}{limit}"
        )
    return made


def _mac(host: Host, end: int) -> str:
    """Return the hardware address of eth0 (2) or of its port (1): a local one, after the IPv4 subnet."""
    return "02:" + host.net4[end].packed.hex(":") + ":00"


def router_batch(hosts: Iterable[Host]) -> list[str]:
    """Return the commands, run in core, that give each port the gateway address of its subnet."""
    batch = ["link set lo up"]
    for host in hosts:
        batch += [
            f"addr add {host.net4[1]}/{host.net4.prefixlen} dev {host.name}",
            f"addr add {host.net6[1]}/{host.net6.prefixlen} dev {host.name} nodad",
            f"link set {host.name} up",
            *(f"neigh add {one} lladdr {_mac(host, 2)} dev {host.name}" for one in (host.ipv4, host.ipv6)),
        ]
    return batch


def host_batch(host: Host) -> list[str]:
    """Return the commands, run in the host, that give eth0 its addresses and default routes.

    Neighbour entries are permanent at both ends of the cable: who asks for whose hardware address, and when,
    is the kernel's affair, and would stand in every capture.
    """
    gateways = (host.net4[1], host.net6[1])
    return [
        "link set lo up",
        f"addr add {host.ipv4}/{host.net4.prefixlen} dev eth0",
        f"addr add {host.ipv6}/{host.net6.prefixlen} dev eth0 nodad",
        "link set eth0 up",
        *(f"neigh add {gateway} lladdr {_mac(host, 1)} dev eth0" for gateway in gateways),
        *(f"route add default via {gateway} dev eth0" for gateway in gateways),
    ]


def existing(place: Place) -> list[str]:
    """Return the names of the lab's namespaces that exist now, whoever made them."""
    return sorted(path.name for path in RUN_NETNS.glob(f"{place.prefix}*"))


def processes(spaces: Iterable[str]) -> list[int]:
    """Return the process ids, except our own, whose network namespace is one of `spaces`."""
    inodes = set()
    for space in spaces:
        with contextlib.suppress(FileNotFoundError):
            inodes.add((RUN_NETNS / space).stat().st_ino)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if (entry / "ns/net").stat().st_ino in inodes:
                    found.append(int(entry.name))
    return found


def destroy(place: Place) -> list[str]:
    """End every process in the lab's namespaces and remove them; return the names removed. Idempotent."""
    spaces = existing(place)
    _end(spaces)
    for space in spaces:
        # Deleting a namespace removes its veths, and with them their other ends.
        subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)
    for etc in ETC_NETNS.glob(f"{place.prefix}*"):
        shutil.rmtree(etc)
    with contextlib.suppress(OSError):
        ETC_NETNS.rmdir()  # only if it is empty: ours was the only use of it
    return spaces


def inside(place: Place, host: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs `command` in a host's namespace, with the host's resolv.conf."""
    return ["ip", "netns", "exec", place.namespace(host), *command]


def _end(spaces: Sequence[str]) -> None:
    """Ask every process in the namespaces to end, wait, then kill what is left."""
    for number, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        pids = processes(spaces)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + patience
        while processes(spaces) and time.monotonic() < deadline:
            time.sleep(0.02)


def ip(batch: Sequence[str], space: str | None = None, family: str = "") -> None:
    """Run a batch of ip commands, in a namespace if one is named; OperatorError at the first that fails."""
    _run(["ip", *filter(None, [family]), *(["-n", space] if space else []), "-batch", "-"], "\n".join(batch))


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OperatorError(
            f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}",
            "the lab needs root, iproute2, and a kernel with network namespaces and veth",
        )
