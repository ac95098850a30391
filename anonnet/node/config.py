"""The configuration file: TOML in, one frozen `Config` out, or a `ConfigError` that says how to mend it.

docs/anonnet.example.toml is the annotated form of what stands here. Nothing downstream checks again, but
for invites: node.peers parses those, since `down` must work with a file whose invites have gone stale.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from anonnet.crypto.suite import SUITE_WEAKNESSES
from anonnet.errors import ConfigError, Malformed, OperatorError
from anonnet.ids import parse_node_id
from anonnet.node.address import parse_address, parse_listen
from anonnet.proto.isolation import MAX_CIRCUITS, Isolation, check_isolation
from anonnet.proto.profile import parse_profile
from anonnet.proto.redundancy import parse_redundancy
from anonnet.spec import IP_PROTOCOL, UDP_PORT
from anonnet.wire.descriptor import MAX_ADDRESSES, MAX_NAME_LEN, Address

FEW_HOPS: Final = 3  # fewer than these protect little: first relay and exit are neighbours, or one node

TransportName = Literal["raw", "udp"]
Port = Annotated[int, Meta(ge=1, le=65535)]
# The kernel's limit for interface names is 15 bytes (IFNAMSIZ less the NUL).
Interface = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", description="write at most 15 of a-z 0-9 _ . -")
]

Devices = Annotated[  # one, or all whose name begins so
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,13}[A-Za-z0-9_.*-]?$", description="write docker0 or v*")
]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; a key that it does not know is an error."""


class NodeSection(_Section, frozen=True):
    """[node]: where this node keeps things, and as whom it runs."""

    name: str = ""
    state_dir: Path = Path("/var/lib/anonnet")
    run_dir: Path = Path("/run/anonnet")
    user: str = "anonnet"
    suite: Literal["anonnet-2026", "anonnet-2003"] = "anonnet-2026"
    family: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class TransportSection(_Section, frozen=True):
    """[transport]: how datagrams leave, and the addresses that invites name."""

    raw: bool = True
    udp: bool = True
    ip_protocol: Annotated[int, Meta(ge=1, le=255)] = IP_PROTOCOL
    udp_port: Port = UDP_PORT
    mark: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = 0x616E
    bind4: IPv4Address = IPv4Address("0.0.0.0")  # noqa: S104  relays listen to everybody
    bind6: IPv6Address = IPv6Address("::")
    addresses: tuple[str, ...] = ()

    @property
    def parsed(self) -> tuple[Address, ...]:
        """`addresses`: where others may reach this node."""
        return tuple(parse_address(text) for text in self.addresses)


class LinksSection(_Section, frozen=True):
    """[links]: what peers get that do not say otherwise."""

    profile: str = "10m"
    interval: Literal["fixed", "randomised"] = "fixed"


class DataPlaneSection(_Section, frozen=True):
    """[data_plane]: how hard the process that keeps the ticks clings to the machine."""

    realtime_priority: Annotated[int, Meta(ge=0, le=99)] = 50  # SCHED_FIFO; 0 = off
    lock_memory: bool = True
    native: Literal["auto"] | bool = "auto"
    threads: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"

    @property
    def wants_threads(self) -> int | None:
        """`threads`; None: as many as the links need."""
        return None if self.threads == "auto" else self.threads

    @property
    def wants_native(self) -> bool | None:
        """`native`; None: if it is there."""
        return None if self.native == "auto" else bool(self.native)


class ExitSection(_Section, frozen=True):
    """[exit]: whether this node forwards to the Internet, and what it will not forward."""

    enabled: bool = False
    ipv4: bool = True
    ipv6: bool = True
    tun: Interface = "anonexit0"
    pool4: str = "100.127.0.0/16"
    pool6: str = "fd61:6e6f:6e6e:1::/64"
    resolver: str = "auto"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    connections_per_circuit: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    new_connections_per_second: Annotated[int, Meta(ge=1, le=100_000)] = 100


class CallerSection(_Section, frozen=True):
    """[caller]: what `anonnet-tun up` does on this host."""

    tun: Interface = "anonnet0"
    hops: Annotated[int, Meta(ge=1, le=16)] = 3
    routes: Annotated[int, Meta(ge=1, le=8)] = 2
    redundancy: str = "stripe"
    exit: str = "auto"
    exclude: tuple[str, ...] = ()
    circuits: Annotated[int, Meta(ge=1, le=MAX_CIRCUITS)] = 1
    isolate: Literal["off", "destination", "user"] = "off"
    distinct_exits: bool | Literal["auto"] = "auto"
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of a link's free slots, for the circuit
    lan: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    outside_users: tuple[str, ...] = ()
    forward: tuple[Devices, ...] = ()


class SocksSection(_Section, frozen=True):
    """[socks]: the proxy that `anonnet-tun socks` runs."""

    listen: str = "127.0.0.1:1080"
    open_to: tuple[str, ...] = ()
    tun: Interface = "anonsocks0"
    circuits: Annotated[int, Meta(ge=1, le=MAX_CIRCUITS)] = 1
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 512


class PeerSection(_Section, frozen=True):
    """[[peers]]: a node that this one knows; `link` makes it a neighbour."""

    invite: str
    link: bool = True
    transport: TransportName | None = None
    address: str | None = None
    profile: str | None = None

    @property
    def parsed(self) -> Address | None:
        """`address`: where to reach the peer, whatever its invite says."""
        return None if self.address is None else parse_address(self.address)


class Config(_Section, frozen=True):
    """The whole file, checked."""

    node: NodeSection = NodeSection()
    transport: TransportSection = TransportSection()
    links: LinksSection = LinksSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    exit: ExitSection = ExitSection()
    caller: CallerSection = CallerSection()
    socks: SocksSection = SocksSection()
    peers: tuple[PeerSection, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but should be said at start."""
        found = [f"suite {self.node.suite}: {text}" for text in SUITE_WEAKNESSES[self.node.suite]]
        if self.caller.hops < FEW_HOPS:
            found.append(f"caller.hops = {self.caller.hops}: fewer than {FEW_HOPS} hops protect little")
        if not self.data_plane.realtime_priority:
            found.append("data_plane.realtime_priority = 0: a busy machine will show in the wire's timing")
        return tuple(found)


def load(path: Path) -> Config:
    """Read and check a configuration file; raise ConfigError in one line with the way to mend it."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = f"write one with: anonnet-tun init -c {path}"
        raise ConfigError(f"no configuration at {path}", hint) from None
    except PermissionError:
        raise ConfigError(f"may not read {path}", "run this with sudo") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}", error.strerror or str(error)) from None
    return parse(raw, str(path))


def parse(raw: bytes, source: str) -> Config:
    """Check the text of a configuration file; `source` names it in errors."""
    try:
        config = msgspec.toml.decode(raw, type=Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _explain(source, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not TOML", str(error)) from None
    _cross_check(config, source)
    return config


def check_listen(socks: SocksSection, text: str) -> tuple[str, int]:
    """Return address and port; ValueError, or OperatorError where others than this host could come."""
    host, port = parse_listen(text)
    if not host.is_loopback and not socks.open_to:
        hint = "name in socks.open_to the networks whose hosts may use it, or listen at 127.0.0.1"
        raise OperatorError(f"others than this host can reach {host}", hint)
    return str(host), port


def _decode(kind: type, value: object) -> object:
    """Decode what msgspec does not know by itself."""
    if isinstance(value, str):
        if kind is Path:
            if not value.startswith("/"):
                raise ValueError("Expected an absolute path")
            return Path(value)
        if kind in (IPv4Address, IPv6Address):
            return kind(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _cross_check(config: Config, source: str) -> None:
    """Check what no single key's type can say."""
    if not config.transport.raw and not config.transport.udp:
        raise ConfigError(f"{source}: transport.raw and transport.udp are off", "set one of them to true")
    if len(config.transport.addresses) > MAX_ADDRESSES:
        raise ConfigError(f"{source}: too many transport.addresses", f"keep {MAX_ADDRESSES} at most")
    _check_tuns(config, source)
    try:
        check_isolation(Isolation(config.caller.isolate), config.caller.circuits)
    except OperatorError as error:
        raise ConfigError(f"{source}: caller: {error.what}", error.hint) from None
    for key, read, text in _texts(config):
        try:
            read(text)
        except OperatorError as error:
            raise ConfigError(f"{source}: {key}: {error.what}", error.hint) from None
        except (ValueError, Malformed) as error:
            raise ConfigError(f"{source}: {key} = {text!r} will not do", str(error)) from None
    for index, address in enumerate(config.transport.addresses):
        _check_on(config, source, f"transport.addresses[{index}]", address.partition(":")[0])
    seen: dict[str, int] = {}
    for index, peer in enumerate(config.peers):
        if (first := seen.setdefault(peer.invite, index)) != index:
            raise ConfigError(f"{source}: peers[{index}] repeats peers[{first}]", "keep one of the two")
        if peer.transport and peer.address and not peer.address.startswith(peer.transport):
            raise ConfigError(f"{source}: peers[{index}]: address contradicts transport", "leave one out")
        if transport := peer.transport or (peer.address or "").partition(":")[0]:
            _check_on(config, source, f"peers[{index}]", transport)


def _check_tuns(config: Config, source: str) -> None:
    tuns = {"exit.tun": config.exit.tun, "caller.tun": config.caller.tun, "socks.tun": config.socks.tun}
    for one, other in itertools.combinations(tuns, 2):
        if tuns[one] == tuns[other]:
            raise ConfigError(f"{source}: {one} and {other} are the same", "give them different names")


def _texts(config: Config) -> Iterator[tuple[str, Callable[[str], object], str]]:
    """Yield every string with a grammar of its own: its key, its parser and itself."""
    exit_, caller = config.exit, config.caller
    lists: list[tuple[str, Callable[[str], object], tuple[str, ...]]] = [
        ("transport.addresses", parse_address, config.transport.addresses),
        ("node.family", parse_node_id, config.node.family),
        ("exit.allow", ip_network, exit_.allow),
        ("exit.deny", ip_network, exit_.deny),
        ("caller.lan", ip_network, caller.lan),
        ("caller.exclude", _read_excluded, caller.exclude),
        ("caller.outside", ip_network, caller.outside),
        ("socks.open_to", ip_network, config.socks.open_to),
    ]
    for key, read, texts in lists:
        yield from ((f"{key}[{index}]", read, text) for index, text in enumerate(texts))
    yield "node.name", _read_name, config.node.name
    yield "links.profile", parse_profile, config.links.profile
    yield "exit.pool4", IPv4Network, exit_.pool4
    yield "exit.pool6", IPv6Network, exit_.pool6
    yield "socks.listen", lambda text: check_listen(config.socks, text), config.socks.listen
    if exit_.resolver != "auto":
        yield "exit.resolver", ip_address, exit_.resolver
    yield "caller.redundancy", parse_redundancy, caller.redundancy
    if caller.exit != "auto":
        yield "caller.exit", parse_node_id, caller.exit
    for index, peer in enumerate(config.peers):
        if peer.profile is not None:
            yield f"peers[{index}].profile", parse_profile, peer.profile
        if peer.address is not None:
            yield f"peers[{index}].address", parse_address, peer.address


def _read_excluded(text: str) -> None:
    try:
        parse_node_id(text)
    except Malformed:
        try:
            ip_network(text)
        except ValueError:
            raise ValueError("write ids of nodes, or networks such as 198.51.100.0/24") from None


def _read_name(text: str) -> None:
    if len(text.encode()) > MAX_NAME_LEN or not text.isprintable():
        raise ValueError(f"a name has at most {MAX_NAME_LEN} bytes and can be printed")


def _check_on(config: Config, source: str, key: str, transport: str) -> None:
    """Refuse a key that wants a transport which the file turns off."""
    if not (config.transport.raw if transport == "raw" else config.transport.udp):
        raise ConfigError(f"{source}: {key} needs {transport}, now off", f"set transport.{transport} = true")


def _explain(source: str, text: str) -> ConfigError:
    """Turn msgspec's "reason - at `$.section.key`" into the key and the way to mend it."""
    reason, _, path = text.partition(" - at `$")
    key = path.strip(".`")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        known = list(get_type_hints(_type_at(key)))
        close = difflib.get_close_matches(unknown[1], known, 1)
        dotted = f"{key}.{unknown[1]}".lstrip(".")
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return ConfigError(f"{source}: unknown key {dotted}", hint)
    kind = _type_at(key)
    if get_origin(kind) is Literal:
        reason = "write one of " + ", ".join(repr(value) for value in get_args(kind))
    for meta in getattr(kind, "__metadata__", ()):
        reason = meta.description or reason
    return ConfigError(f"{source}: {key} will not do", reason[0].lower() + reason[1:])


def _type_at(key: str) -> Any:
    """Find the declared type of a dotted key, such as `peers[0].profile`."""
    kind: Any = Config
    for name, index in re.findall(r"(\w+)((?:\[\d+\])?)", key):
        kind = get_type_hints(kind, include_extras=True)[name]
        if index:
            kind = get_args(kind)[0]
        if get_origin(kind) in (Union, UnionType):
            kind = get_args(kind)[0]  # `X | None`
    return kind
