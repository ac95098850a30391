"""The commands that need neither root nor a daemon, and how all of them fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import anonnet.cli
from anonnet.cli import COMMANDS, main, show
from anonnet.cli.doctor import tcp_buffers
from anonnet.cli.host import combine
from anonnet.cli.probe import echo_request
from anonnet.crypto.keys import load_keys
from anonnet.ids import node_id_text
from anonnet.node import api
from anonnet.node.config import load
from anonnet.proto.profile import parse_profile
from anonnet.wire.descriptor import parse_invite

ROOT = Path(anonnet.__path__[0]).parent


class Node:
    """A node in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "etc" / "anonnet.toml"
        self.directory = directory

    def run(self, *argv: str) -> Result:
        return CliRunner(env={"ANONNET_CONFIG": str(self.config)}).invoke(main, argv)

    def init(self, *argv: str) -> Result:
        where = ("--state-dir", str(self.directory / "state"), "--run-dir", str(self.directory / "run"))
        return self.run("init", *where, *argv)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "a")


@pytest.fixture
def other(tmp_path: Path) -> Node:
    return Node(tmp_path / "b")


def test_two_nodes_get_to_know_each_other(node: Node, other: Node) -> None:
    made = node.init("--name", "hazel", "--address", "raw:198.51.100.1", "--exit", "--profile", "t1")
    assert made.exit_code == 0, made.stderr
    line = node.run("invite").stdout.strip()
    descriptor = parse_invite(line)
    assert (descriptor.name, descriptor.exit4, descriptor.exit6) == ("hazel", True, True)
    assert node_id_text(descriptor.node_id) in made.stdout
    assert node.run("invite").stderr == ""

    assert other.init("--from-invite", line).exit_code == 0
    assert [peer.invite for peer in load(other.config).peers] == [line]
    back = other.run("invite")
    assert parse_invite(back.stdout.strip()).neighbours == (descriptor.node_id,)
    assert "nobody can call this node" in back.stderr


def test_init_replaces_only_when_told_and_never_keys(node: Node) -> None:
    assert node.init().exit_code == 0
    keys = load_keys(node.directory / "state").node_id
    refused = node.init("--name", "birch")
    assert refused.exit_code == 1
    assert "exists: edit it, or replace it with --force" in refused.stderr
    assert node.init("--name", "birch", "--force").exit_code == 0
    assert load(node.config).node.name == "birch"
    assert load_keys(node.directory / "state").node_id == keys


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("--profile", "t4"), "links.profile: unknown link profile 't4'"),
        (("--address", "198.51.100.1"), "transport.addresses[0]"),
        (("--name", "n" * 33), "node.name"),
        (("--from-invite", "anonnet:AAAA"), "peers[0].invite is damaged"),
    ],
)
def test_init_writes_nothing_that_will_not_do(node: Node, argv: tuple[str, ...], reason: str) -> None:
    result = node.init(*argv)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert not node.config.exists()


def test_keys_are_replaced_only_when_told(node: Node) -> None:
    node.init()
    before = load_keys(node.directory / "state").node_id
    assert "exists" in node.run("keygen").stderr
    made = node.run("keygen", "--force")
    assert made.exit_code == 0
    assert made.stdout.strip() == node_id_text(load_keys(node.directory / "state").node_id)
    assert made.stdout.strip() != node_id_text(before)


def test_keys_stay_where_their_successors_cannot_be_written(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.init()
    before = load_keys(node.directory / "state")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        failed = node.run("keygen", "--force")
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert load_keys(node.directory / "state").node_id == before.node_id
    assert [path.name for path in (node.directory / "state").iterdir()] == ["keys.json"]


def test_keygen_without_a_configuration(node: Node) -> None:
    assert "anonnet-tun init -c" in node.run("keygen").stderr
    made = node.run("keygen", "--state-dir", str(node.directory))
    assert made.exit_code == 0
    assert (node.directory / "keys.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["up", "down", "status", "peers", "circuits", "invite", "cleanup"])
def test_without_a_configuration_every_command_says_how_to_get_one(node: Node, command: str) -> None:
    result = node.run(command)
    assert result.exit_code == 1
    assert result.stderr.startswith("anonnet-tun: no configuration at ")
    assert result.stderr.count("\n") == 1


def test_a_node_alone_cannot_go_up(node: Node) -> None:
    node.init()
    result = node.run("up")
    assert result.exit_code == 1
    assert "no peer to link with" in result.stderr


def test_usage_errors_are_2(node: Node) -> None:
    assert node.run("sideways").exit_code == 2
    assert node.run("up", "--hops", "0").exit_code == 2


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e300", "soon"])
@pytest.mark.parametrize(
    "argv", [("up", "--wait"), ("socks", "--wait"), ("wait", "--timeout"), ("lab", "demo", "--seconds")]
)
def test_seconds_are_a_number_that_a_clock_reaches(node: Node, argv: tuple[str, ...], seconds: str) -> None:
    result = node.run(*argv, seconds)
    assert result.exit_code == 2
    assert argv[-1] in result.stderr


@pytest.mark.parametrize("argv", [("status",), ("exec", "r1", "true"), ("weather",), ("capture", "r1", "x")])
def test_the_lab_is_shown_to_root_only(
    node: Node, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = node.run("lab", *argv)
    assert result.exit_code == 1
    assert "run it as root" in result.stderr


def test_buffers_for_what_fast_links_keep_on_their_way() -> None:
    """4 MiB, as usual, do for a link of 100 Mbit/s, and neither for one of 250 nor for two of 100."""
    usual = 4 << 20
    fast, faster = parse_profile("100m"), parse_profile("250m")
    assert max(tcp_buffers([fast])) < usual < min(tcp_buffers([faster]))
    assert usual < min(tcp_buffers([fast, fast])) < 2 * usual
    sent, received = tcp_buffers([parse_profile("adsl")])
    assert received == 8 * sent


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_no_bug(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "anonnet.cli", "completion", "bash"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert done.returncode == 1
    assert done.stderr.startswith("anonnet-tun: cannot write")
    assert done.stderr.count("\n") == 1


def test_bugs_are_said_to_be_ours(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.init()
    monkeypatch.setattr("anonnet.cli.show.current", lambda config: 1 // 0)
    result = node.run("status")
    assert result.exit_code == 70
    assert "a bug of ours: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(node.run("--debug", "status").exception, ZeroDivisionError)


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom anonnet.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'cryptography', 'msgspec', 'pyroute2', 'rich'}\n"
        "print([name for name in sys.modules if name.partition('.')[0] in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_a_node_does_without_what_only_commands_need() -> None:
    code = (
        "import sys\nfrom anonnet.node.__main__ import main\n"
        "assert main('/no/such/file') == 1 and 'msgspec' in sys.modules\n"
        "unused = ['argparse', 'asyncio', 'click', 'gettext', 'json', 'pyroute2', 'rich', 'zfec']\n"
        "print([name for name in [*unused, 'typing_extensions'] if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_node_says_which_package_is_missing() -> None:
    code = (
        "import sys\nfrom anonnet.node.__main__ import main\n"
        "sys.modules['msgspec'] = None\n"
        "sys.exit(main('/no/such/file'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "anonnet-tun: the Python package msgspec is missing: install anew\n"


@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_the_node_says_it_as_commands_do(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """And takes no module from where it is started."""
    (tmp_path / "logging.py").write_text("raise SystemExit(42)\n")
    command = [sys.executable, "-P", "-m", "anonnet.cli", *flags, "run", "-c", str(tmp_path / "none.toml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *above, said = done.stderr.splitlines()
    assert said.startswith(f"anonnet-tun: no configuration at {tmp_path / 'none.toml'}")
    assert above[:1] == (["Traceback (most recent call last):"] if flags else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.stderr
    assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    ("daemon", "firewall", "tunnel", "state"),
    [
        ("down", False, False, "down"),
        ("up", False, False, "down"),  # somebody flushed the firewall: packets are in the clear
        ("down", True, False, "blocked"),
        ("down", True, True, "blocked"),
        ("connecting", True, False, "connecting"),
        ("up", True, False, "connecting"),  # `up` has its circuit and sets the routes now
        ("connecting", True, True, "connecting"),  # the circuit is being rebuilt
        ("up", True, True, "up"),
    ],
)
def test_state_of_host_and_daemon(daemon: api.State, firewall: bool, tunnel: bool, state: api.State) -> None:
    assert combine(daemon, firewall, tunnel) == state


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_echo_requests_have_a_right_checksum(identifier: int, sequence: int) -> None:
    packet = echo_request(identifier, sequence)
    total = sum(int.from_bytes(packet[i : i + 2], "big") for i in range(0, len(packet), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071


def test_several_circuits_are_shown_with_their_exits_and_what_has_none() -> None:
    routes = (api.RouteStatus(7, ("a" * 32, "x" * 32), "open", 2.5),)
    one = api.CircuitStatus(1, "x" * 32, routes, "up", "", 3)
    two = api.CircuitStatus(2, "", (), "connecting", "no free slots", 2)
    assert show._circuit_table([one]).split()[:2] == ["circuit", "route"]
    table = show._circuit_table([one, two]).splitlines()
    assert [line.split() for line in table[:3]] == [
        ["circuit", "state", "exit", "keys"],
        ["1", "up", "xxxxxxxx", "3"],
        ["2", "connecting", "none", "2"],
    ]
    assert table[5].split() == ["1", "7", "open", "2.5", "aaaaaaaa", "-", "xxxxxxxx"]


def test_a_reader_that_has_gone_is_no_bug() -> None:
    """`anonnet-tun status | head -1`: the rest has nowhere to go."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "anonnet.cli", "completion", "bash"]
    with os.fdopen(writing, "wb") as nowhere:
        done = subprocess.run(command, stdout=nowhere, stderr=subprocess.PIPE, check=False)
    assert done.returncode != anonnet.cli.Bug.exit_code
    assert done.stderr == b""
