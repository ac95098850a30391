"""The configuration file: what is accepted, and that each error names its key and the way to mend it."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.cli.template import EXAMPLE, Choices, render
from anonnet.crypto.keys import NodeKeys
from anonnet.errors import ConfigError, OperatorError
from anonnet.ids import node_id_text
from anonnet.node.address import address_text, parse_address
from anonnet.node.config import load, parse
from anonnet.node.invite import own_descriptor, own_invite
from anonnet.node.peers import find_node, read_peers, require_link
from anonnet.node.sections import Config
from anonnet.wire.descriptor import Address, Transport, parse_invite

EXAMPLE_FILE = Path(__file__).parents[2] / "docs" / "anonnet.example.toml"

WRONG = {
    # what the file says: what the error must say
    "name = 1": "unknown key name: known are node, transport",
    "[node]\nstatedir = '/x'": "unknown key node.statedir: did you mean state_dir?",
    "[node]\nstate_dir = 'x'": "node.state_dir will not do: expected an absolute path",
    "[node]\nlog_level = 'loud'": "node.log_level will not do: write one of 'debug', 'info'",
    "[node]\nsuite = 'anonnet-1998'": "node.suite will not do: write one of 'anonnet-2026', 'anonnet-2003'",
    "[node]\nfamily = ['hazel']": "node.family[0] = 'hazel' will not do: not a node id",
    "[node]\nname = 'ßßßßßßßßßßßßßßßßß'": "at most 32 bytes",
    "[transport]\nraw = false\nudp = false": "transport.raw and transport.udp are off: set one of them",
    "[transport]\nudp_port = 0": "transport.udp_port will not do: expected `int` >= 1",
    "[transport]\nudp_port = '1'": "transport.udp_port will not do: expected `int`, got `str`",
    "[transport]\naddresses = ['198.51.100.1']": "transport.addresses[0] = '198.51.100.1' will not do",
    "[transport]\naddresses = ['raw:198.51.100.1:2']": "the raw transport has no ports",
    "[transport]\naddresses = ['raw:0.0.0.0']": "no node can have this address",
    "[transport]\nraw = false\naddresses = ['raw:198.51.100.1']": "set transport.raw = true",
    "[transport]\nbind4 = '::'": "transport.bind4 will not do: expected 4 octets",
    "[links]\nprofile = 't4'": "links.profile: unknown link profile 't4': name one of",
    "[links]\ninterval = 'often'": "links.interval will not do: write one of 'fixed', 'randomised'",
    "[data_plane]\nrealtime_priority = 100": "data_plane.realtime_priority will not do: expected `int` <= 99",
    "[data_plane]\nthreads = 65": 'data_plane.threads will not do: write "auto", or 1 to 64',
    "[data_plane]\nnative = 'maybe'": 'data_plane.native will not do: write "auto", true or false',
    "[transport]\nip_protocol = 6": "transport.ip_protocol = 6 is that of other traffic",
    "[exit]\nenabled = true\nipv4 = false\nipv6 = false": "exit.ipv4 and exit.ipv6 are off",
    "[caller]\nlan = ['0.0.0.0/0']": "caller.lan[0] = '0.0.0.0/0' will not do: with all of the Internet",
    "[caller]\noutside = ['::/0']": "caller.outside[0] = '::/0' will not do: with all of the Internet",
    "[exit]\ntun = 'a-name-longer-than-the-kernel-likes'": "exit.tun will not do: write at most 15",
    "[exit]\ntun = 'anonnet0'": "exit.tun and caller.tun are the same",
    "[exit]\npool4 = '100.127.0.1/16'": "exit.pool4 = '100.127.0.1/16' will not do: 100.127.0.1",
    "[exit]\nresolver = 'quad9'": "exit.resolver = 'quad9' will not do",
    "[exit]\ndeny = ['everything']": "exit.deny[0] = 'everything' will not do",
    "[caller]\nhops = 0": "caller.hops will not do: expected `int` >= 1",
    "[caller]\nshare = 0.0": "caller.share will not do",
    "[caller]\ncircuits = 9": "caller.circuits will not do: expected `int` <= 8",
    "[caller]\ncircuits = 2": "caller: 2 circuits, and nothing says what goes into which: set isolate",
    "[caller]\nisolate = 'user'": "caller: isolation by user in one circuit keeps nothing apart",
    "[caller]\nisolate = 'all'": "caller.isolate will not do: write one of 'off', 'destination', 'user'",
    "[caller]\ndistinct_exits = 'no'": "caller.distinct_exits will not do",
    "[caller]\nexit = 'hazel'": "caller.exit = 'hazel' will not do",
    "[caller]\nlan = ['home']": "caller.lan[0] = 'home' will not do",
    "[caller]\nforward = ['*']": "caller.forward[0] will not do: write docker0 or v*",
    "[socks]\nlisten = '127.0.0.1'": "socks.listen = '127.0.0.1' will not do: write 127.0.0.1:1080",
    "[socks]\nlisten = '127.0.0.1:0'": "socks.listen = '127.0.0.1:0' will not do: write 127.0.0.1:1080",
    "[socks]\nlisten = '0.0.0.0:1080'": "socks.listen: others than this host can reach 0.0.0.0: name",
    "[socks]\nopen_to = ['home']": "socks.open_to[0] = 'home' will not do",
    "[socks]\ntun = 'anonnet0'": "caller.tun and socks.tun are the same",
    "[[peers]]\nlink = true": "peers[0] will not do: object missing required field `invite`",
    "[[peers]]\ninvite = 'a'\nprofil = 't1'": "unknown key peers[0].profil: did you mean profile?",
    "[[peers]]\ninvite = 'a'\nprofile = 'fast'": "peers[0].profile: unknown link profile 'fast'",
    "[[peers]]\ninvite = 'a'\n[[peers]]\ninvite = 'a'": "peers[1] repeats peers[0]: keep one",
    "[[peers]]\ninvite = 'a'\ntransport = 'tcp'": "peers[0].transport will not do: write one of 'raw', 'udp'",
    "[[peers]]\ninvite = 'a'\ntransport = 'raw'\naddress = 'udp:192.0.2.1'": "address contradicts transport",
    "[transport]\nudp = false\n[[peers]]\ninvite = 'a'\ntransport = 'udp'": "set transport.udp = true",
    "peers = 3": "peers will not do: expected `array`, got `int`",
    "[node": "is not TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_name_file_key_and_remedy(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "/etc/x.toml")
    assert WRONG[text] in str(caught.value)
    assert str(caught.value).startswith("/etc/x.toml")
    assert "\n" not in str(caught.value)


def test_a_name_must_be_printable() -> None:
    with pytest.raises(ConfigError, match="can be printed"):
        parse(b'[node]\nname = "a\\u0007b"', "x")


def test_bytes_that_are_not_text() -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        parse(b"\xff", "x")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_config_or_a_config_error(raw: bytes) -> None:
    try:
        parse(raw, "x")
    except ConfigError as error:
        assert "\n" not in error.what  # noqa: PT017


def test_an_empty_file_is_the_defaults() -> None:
    assert parse(b"", "x") == Config()


def test_the_example_is_what_init_writes_and_says_every_key() -> None:
    """`python -m anonnet.cli.template > docs/anonnet.example.toml` writes it anew."""
    text = EXAMPLE_FILE.read_text()
    assert text == render(EXAMPLE)
    config = load(EXAMPLE_FILE)
    assert config.exit.enabled
    written = tomllib.loads(text)
    for section in Config.__struct_fields__:
        if section != "peers":
            assert set(written[section]) == set(getattr(config, section).__struct_fields__)


def test_init_writes_the_defaults() -> None:
    assert parse(render(Choices()).encode(), "x") == Config()


@given(st.text(max_size=32).filter(lambda text: text.isprintable() and len(text.encode()) <= 32))
def test_init_quotes_what_it_is_told(name: str) -> None:
    assert parse(render(Choices(name=name)).encode(), "x").node.name == name


def test_missing_and_forbidden_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="anonnet-tun init -c"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path)


def test_few_hops_are_warned_of() -> None:
    assert parse(b"[caller]\nhops = 3", "x").warnings == ()
    assert "hops = 2" in parse(b"[caller]\nhops = 2", "x").warnings[0]


def test_a_suite_is_named_or_refused_and_what_is_weak_is_warned_of() -> None:
    old = parse(b"[node]\nsuite = 'anonnet-2003'", "x")
    assert all(warning.startswith("suite anonnet-2003: ") for warning in old.warnings)
    for weak in ("Arcfour", "Diffie-Hellman", "Tiger-192"):
        assert any(weak in warning for warning in old.warnings)


hosts = st.ip_addresses().filter(lambda host: not host.is_unspecified and not host.is_multicast)


@given(st.sampled_from(Transport), hosts, st.integers(1, 65535))
def test_addresses_round_trip(transport: Transport, host: IPv4Address | IPv6Address, port: int) -> None:
    address = Address(transport, host, 0 if transport is Transport.RAW else port)
    assert parse_address(address_text(address)) == address


def test_udp_has_a_default_port() -> None:
    assert parse_address("udp:[2001:db8::1]").port == 2531


class TestPeers:
    """Invites from the command of one node into the file of another."""

    def setup_method(self) -> None:
        self.keys = [NodeKeys.generate() for _ in range(3)]
        self.configs = [
            parse(f'[node]\nname = "node{i}"\n[transport]\naddresses = ["raw:198.51.{i}.1"]'.encode(), "x")
            for i in range(3)
        ]

    def invite(self, index: int, epoch: int = 1) -> str:
        return own_invite(self.configs[index], self.keys[index], [], epoch)

    def file(self, *lines: str) -> Config:
        return parse("".join(f"[[peers]]\n{line}\n" for line in lines).encode(), "x")

    def test_an_invite_says_what_the_file_says(self) -> None:
        neighbours = [keys.node_id for keys in self.keys[1:]]
        descriptor = parse_invite(own_invite(self.configs[0], self.keys[0], neighbours, 7))
        assert descriptor == own_descriptor(self.configs[0], self.keys[0], neighbours, 7)
        assert (descriptor.name, descriptor.epoch, descriptor.exit4) == ("node0", 7, False)
        assert descriptor.addresses == (parse_address("raw:198.51.0.1"),)
        assert set(descriptor.neighbours) == set(neighbours)

    def test_defaults_and_overrides(self) -> None:
        config = self.file(
            f"invite = '{self.invite(0)}'",
            f"invite = '{self.invite(1)}'\naddress = 'udp:192.0.2.7:9'\nprofile = 't1'\nlink = false",
        )
        first, second = read_peers(config, self.keys[2].node_id, "x")
        assert (first.link, first.transport, first.address, first.profile.name) == (True, None, None, "10m")
        assert second.address == parse_address("udp:192.0.2.7:9")
        assert (second.link, second.transport, second.profile.name) == (False, Transport.UDP, "t1")

    def test_own_damaged_and_repeated_invites(self) -> None:
        own = self.keys[0].node_id
        for config, reason in (
            (self.file(f"invite = '{self.invite(0)}'"), r"peers\[0\].invite is this node's own"),
            (self.file(f"invite = '{self.invite(1)[:-1]}'"), r"peers\[0\].invite is damaged"),
            (
                self.file(f"invite = '{self.invite(1)}'", f"invite = '{self.invite(1, 2)}'"),
                r"peers\[1\] and peers\[0\] are both",
            ),
        ):
            with pytest.raises(ConfigError, match=reason):
                read_peers(config, own, "x")

    @pytest.mark.parametrize(
        ("here", "there"), [("anonnet-2026", "anonnet-2003"), ("anonnet-2003", "anonnet-2026")]
    )
    @pytest.mark.parametrize("link", ["true", "false"])
    def test_nodes_of_another_suite(self, here: str, there: str, link: str) -> None:
        """Not even to know of: a route would lead over it."""
        peer = parse(f"[node]\nsuite = '{there}'".encode(), "x")
        invite = own_invite(peer, self.keys[1], [], 1)
        text = f"[node]\nsuite = '{here}'\n[[peers]]\ninvite = '{invite}'\nlink = {link}"
        with pytest.raises(ConfigError, match=f"uses suite {there}, this node {here}"):
            read_peers(parse(text.encode(), "x"), None, "x")

    def test_somebody_to_link_with(self) -> None:
        peers = read_peers(self.file(f"invite = '{self.invite(1)}'\nlink = false"), None, "x")
        with pytest.raises(ConfigError, match="no peer to link with"):
            require_link(peers, "x")

    def test_nodes_are_found_by_id_beginning_and_name(self) -> None:
        config = self.file(f"invite = '{self.invite(0)}'", f"invite = '{self.invite(1)}'")
        peers = read_peers(config, None, "x")
        wanted = node_id_text(self.keys[1].node_id)
        for text in (wanted, wanted[:12], wanted.upper(), "node1"):
            assert find_node(peers, text) == wanted
        with pytest.raises(OperatorError, match="no node"):
            find_node(peers, "node7")
        with pytest.raises(OperatorError, match="fits 2 nodes"):
            find_node(peers, "")
