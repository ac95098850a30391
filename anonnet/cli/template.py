"""The configuration file that `init` writes; docs/anonnet.example.toml is this with `EXAMPLE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final


@dataclass(frozen=True, slots=True)
class Choices:
    """What an operator decides at `init`."""

    name: str = ""
    state_dir: Path = Path("/var/lib/anonnet")
    run_dir: Path = Path("/run/anonnet")
    user: str = "anonnet"
    addresses: Sequence[str] = ()
    profile: str = "10m"
    exit: bool = False
    invites: Sequence[str] = field(default=())


EXAMPLE: Final = Choices(
    name="example",
    addresses=("raw:198.51.100.1", "raw:[2001:db8::1]", "udp:198.51.100.1:2531"),
    exit=True,
)


def render(choices: Choices) -> str:
    """Write the file's text: every key with its value, and what it does."""
    return _FILE.substitute(
        name=_toml(choices.name),
        state_dir=_toml(str(choices.state_dir)),
        run_dir=_toml(str(choices.run_dir)),
        user=_toml(choices.user),
        addresses=_toml(list(choices.addresses)),
        profile=_toml(choices.profile),
        exit=_toml(choices.exit),
        peers="".join(f"\n[[peers]]\ninvite = {_toml(invite)}\n" for invite in choices.invites),
    )


def _toml(value: str | bool | list[str]) -> str:
    """JSON's strings, booleans and arrays of these are TOML's too, given plain characters."""
    return json.dumps(value, ensure_ascii=False)


_FILE: Final = Template("""\
# AnonNet: configuration of one node. Every key is here with its default or what `anonnet-tun init` was told;
# a key that AnonNet does not know is an error. `anonnet-tun run` reads this file once, at its start.

[node]
name = $name                     # shown to people who know this node; not secret, need not be unique
state_dir = $state_dir           # keys (keep them), and what undo needs after a crash
run_dir = $run_dir               # the control socket
user = $user                     # the daemon becomes this user once its sockets are open
suite = "anonnet-2026"           # the same in the whole network; "anonnet-2003" is weak, for study only
family = []                      # ids of other nodes run by the same people: no route uses two of them
log_level = "info"               # debug, info, warning, error

[transport]
raw = true                       # IP packets with a protocol number of their own: the default
udp = true                       # the same datagrams in UDP: for hosts behind NAT
ip_protocol = 253                # of raw datagrams; the same in the whole network (RFC 3692)
udp_port = 2531
mark = 0x616e                    # SO_MARK on link datagrams: the firewall knows them by it
bind4 = "0.0.0.0"
bind6 = "::"
# Where other nodes reach this one; goes into its invite. A node that only calls may leave it empty.
addresses = $addresses

[links]
# modem, isdn, adsl, adsl-isp, t1, 10m, t3, 100m, or a rate: 2m, 1m/8m (out/in), 56k:narrow. A tick lasts
# 5 ms, down to 2 ms on links of 40 Mbit/s and more; ask for other ones with 100m:1ms, or with 100m:5ms where
# packets come less evenly than that.
# Both ends of a link must say the same, adsl facing adsl-isp. A link uses all of it, day and night.
profile = $profile
interval = "fixed"               # but for a dither of 0.32 ms; or "randomised": up to half a tick

[data_plane]
realtime_priority = 50           # SCHED_FIFO, 1 to 99; 0 = off, and a busy host then shows in the timing
lock_memory = true               # no page fault in the middle of a tick, no keys in swap
native = "auto"                  # inner loops in C, if they were built; true: not without, false: in Python
threads = "auto"                 # of the native loops: as many as the links need, or 1 to the cores there are

[exit]
enabled = $exit                  # forward callers' traffic to the Internet, from this host's address
ipv4 = true                      # what its uplink has
ipv6 = true
tun = "anonexit0"
pool4 = "100.127.0.0/16"         # inside this host only: one address for each circuit
pool6 = "fd61:6e6f:6e6e:1::/64"
resolver = "auto"                # answers callers' DNS; auto = the one of this host
# Private, link-local, multicast and metadata addresses and port 25 are always closed, but for `allow`.
allow = []
deny = []
connections_per_circuit = 1024
new_connections_per_second = 100

[caller]
tun = "anonnet0"
hops = 3                         # relays and exit of a route
routes = 2                       # of a circuit, through different relays to one exit, if there are so many
redundancy = "stripe"            # or "mirror" (each cell over every route), or "2-of-n" (parity)
exit = "auto"                    # or the id of one node
exclude = []                     # ids or networks of nodes that must be no part of any route
circuits = 1                     # at once; each has routes of its own, and an address of its own at its exit
isolate = "off"                  # with several: what shares none; "destination", or "user" (of this host)
distinct_exits = "auto"          # an exit for each circuit: auto = while there are enough; true, false
share = 1.0                      # of the free slots of its links, for this host's circuits
lan = []                         # the local network: ["192.168.1.0/24"]; past the tunnel, both ways
outside = []                     # other ranges that stay outside of the tunnel, as those of another VPN
forward = []                     # devices of containers and machines of our own: ["docker0", "veth*"]
outside_users = []               # users whose programs do: ["backup"]; what they look up is resolved inside

[socks]
listen = "127.0.0.1:1080"        # of `anonnet-tun socks`, a SOCKS 5 proxy for single programs
open_to = []                     # networks whose hosts may use it, if it listens elsewhere: ["10.0.0.0/8"]
tun = "anonsocks0"               # its device while this host is not up
circuits = 1                     # then; with several, each user (name and password) keeps to one
connections = 512                # at once

# One table for each node that this one knows; its line comes from `anonnet-tun invite` over there.
#
# [[peers]]
# invite = "anonnet:..."
# link = true                    # keep a link with it; both ends must want this. false: know it as a hop only
# transport = "raw"              # or "udp"; left out: the first of its addresses that works here
# address = "udp:192.0.2.7:2531" # where to reach it, whatever its invite says
# profile = "t1"                 # left out: that of [links]
$peers""")

if __name__ == "__main__":
    print(render(EXAMPLE), end="")
