"""The configuration file: TOML in, one frozen `Config` out, or a `ConfigError` that says how to mend it.

Nothing downstream checks again, but for invites: node.peers parses those, since `down` must work with a
file whose invites have gone stale.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from anonnet.errors import ConfigError, Malformed, OperatorError
from anonnet.ids import parse_node_id
from anonnet.node.address import parse_address, parse_listen
from anonnet.node.sections import Config, SocksSection
from anonnet.proto.isolation import Isolation, check_isolation
from anonnet.proto.profile import parse_profile
from anonnet.proto.redundancy import parse_redundancy
from anonnet.wire.descriptor import MAX_ADDRESSES, MAX_NAME_LEN

# IP protocols that hosts and routers answer, and that an exit carries for others: ICMP, TCP, UDP, ICMPv6.
TAKEN: Final = {IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6}


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
    _check_transport(config, source)
    if config.exit.enabled and not (config.exit.ipv4 or config.exit.ipv6):
        what = f"{source}: exit.ipv4 and exit.ipv6 are off, but exit.enabled is true"
        raise ConfigError(what, "set one of them to true, or exit.enabled to false")
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


def _check_transport(config: Config, source: str) -> None:
    if not config.transport.raw and not config.transport.udp:
        raise ConfigError(f"{source}: transport.raw and transport.udp are off", "set one of them to true")
    if len(config.transport.addresses) > MAX_ADDRESSES:
        raise ConfigError(f"{source}: too many transport.addresses", f"keep {MAX_ADDRESSES} at most")
    if config.transport.ip_protocol in TAKEN:
        what = f"{source}: transport.ip_protocol = {config.transport.ip_protocol} is that of other traffic"
        raise ConfigError(what, "write 253 or 254, which are for experiments (RFC 3692)")


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
        ("caller.lan", _read_outside, caller.lan),
        ("caller.exclude", _read_excluded, caller.exclude),
        ("caller.outside", _read_outside, caller.outside),
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


def _read_outside(text: str) -> None:
    if ip_network(text).prefixlen == 0:
        raise ValueError("with all of the Internet outside, nothing would go through the tunnel")


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
        import difflib  # noqa: PLC0415  a node that runs has no use for it

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
