"""Plans, journal and DNS choice: no rights needed, nothing changed."""

from __future__ import annotations

import errno
import ipaddress
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.tun import commands, dns, journal, warden
from anonnet.tun.actions import CreateTun, DeleteTun, Nft, RestoreFile, Route, Rule, Run, Sysctl, WriteFile
from anonnet.tun.dns import DnsFacts, Manager, dns_facts, dns_steps, nameservers
from anonnet.tun.exit import ExitFacts, ExitSettings, plan_exit
from anonnet.tun.firewall import LinkEndpoint, link_table
from anonnet.tun.host import HostFacts, Phase, UpSettings, plan_up
from anonnet.tun.journal import Journal
from anonnet.tun.plan import Step

FACTS = HostFacts(
    ipv6=True,
    rp_filter="0",
    devices=("eth0",),
    dns=DnsFacts(Manager.FILE, "/etc/resolv.conf", b"\xff\0 any bytes"),
)
SETTINGS = UpSettings(
    links=(
        LinkEndpoint("raw", "192.0.2.9", 253),
        LinkEndpoint("udp", "2001:db8::9", 2531),
        LinkEndpoint("udp", None, 2531),
    ),
    lan=("192.168.0.0/16", "fd00::/8"),
)
EXIT_FACTS = ExitFacts(
    ipv6=True,
    uplinks=("eth0",),
    resolvers=("192.0.2.53",),
    sysctls={
        "net/ipv4/conf/eth0/forwarding": "0",
        "net/ipv6/conf/eth0/accept_ra": "1",
        "net/ipv6/conf/eth0/forwarding": "0",
        "net/ipv6/conf/all/forwarding": "0",
    },
)


def all_steps() -> list[Step]:
    return [
        link_table([253], [2531], "anonnet0"),
        *plan_up(SETTINGS, FACTS),
        *plan_exit(ExitSettings(), EXIT_FACTS),
    ]


def script(steps: list[Step], name: str) -> str:
    (action,) = (step.do for step in steps if step.name == name)
    assert isinstance(action, Nft)
    return action.script


def test_the_order_is_firewall_tun_routes_dns() -> None:
    phases = [step.phase for step in plan_up(SETTINGS, FACTS)]
    assert phases == sorted(phases, key=list(Phase).index)
    assert set(phases) == set(Phase)


def test_names_are_unique_so_that_each_step_has_its_entry() -> None:
    for steps in (plan_up(SETTINGS, FACTS), plan_exit(ExitSettings(), EXIT_FACTS)):
        names = [step.name for step in steps]
        assert len(names) == len(set(names))


def test_every_added_thing_is_deleted_as_it_was_added() -> None:
    for step in all_steps():
        match step.do:
            case Rule() | Route():
                assert step.do.add
                assert step.undo == msgspec.structs.replace(step.do, add=False)
            case CreateTun(name=name, owner=owner):
                assert step.undo == DeleteTun(name, owner)
            case Sysctl(key=key):
                assert isinstance(step.undo, Sysctl)
                assert step.undo.key == key
            case WriteFile(path=path, content=content):
                assert step.undo == RestoreFile(path, content, b"\xff\0 any bytes")
            case Nft():
                assert isinstance(step.undo, Nft)


def test_without_ipv6_no_step_needs_it_but_the_firewall_still_blocks_it() -> None:
    facts = HostFacts(ipv6=False, rp_filter="0", devices=None, dns=FACTS.dns)
    steps = plan_up(SETTINGS, facts)
    assert not [step for step in steps if isinstance(step.do, Rule | Route) and step.do.version == 6]
    assert "table inet anonnet" in script(steps, "firewall")
    assert "netdev" not in script(steps, "firewall")


def test_a_table_is_replaced_in_one_transaction() -> None:
    for step in all_steps():
        if isinstance(step.do, Nft):
            declared, deleted, created = step.do.script.split("\n")[:3]
            assert deleted == f"delete {declared}"
            assert created == f"{declared} {{"


@given(
    st.sampled_from(["raw", "udp"]),
    st.one_of(st.none(), st.ip_addresses().map(str)),
    st.integers(1, 255),
)
def test_no_link_passes_without_address_or_own_port(transport: str, address: str | None, port: int) -> None:
    link = LinkEndpoint(transport, address, port)  # type: ignore[arg-type]
    out, into = link.matching("out"), link.matching("in")
    if address is not None:
        family = "ip" if ipaddress.ip_address(address).version == 4 else "ip6"
        assert out.startswith(f"{family} daddr {address}/") or out.startswith(f"{family} daddr {address} ")
        assert into.startswith(f"{family} saddr {address} ")
    elif transport == "udp":
        assert (out, into) == (f"udp sport {port}", f"udp dport {port}")
    assert str(port) in out


def test_a_wrong_range_is_the_operators_fault() -> None:
    with pytest.raises(OperatorError, match="is no address range"):
        UpSettings(lan=("192.168.1.7/24",))


# -- journal --------------------------------------------------------------------------------------


def test_every_step_survives_the_journal(tmp_path: Path) -> None:
    written = Journal(tmp_path / "run", tmp_path / "state", "host")
    for step in all_steps():
        written.add(step)
    assert Journal(tmp_path / "run", tmp_path / "state", "host").steps == written.steps


def test_a_repeated_step_keeps_the_first_prior_value(tmp_path: Path) -> None:
    pages = Journal(tmp_path, tmp_path / "state", "host")
    first = Step("s", Phase.ROUTES, Sysctl("k", "1"), Sysctl("k", "0"))
    pages.add(first)
    pages.add(msgspec.structs.replace(first, undo=Sysctl("k", "1")))
    assert pages.steps == [first]


def test_after_a_reboot_only_files_are_left_to_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Journal(tmp_path / "run", tmp_path / "state", "host")
    for step in plan_up(SETTINGS, FACTS):
        pages.add(step)
    (tmp_path / "run" / "host.json").unlink()  # a tmpfs
    monkeypatch.setattr(journal, "_boot_id", lambda: "another")
    assert [step.name for step in Journal(tmp_path / "run", tmp_path / "state", "host").steps] == ["dns"]


def test_a_crash_between_the_two_writes_loses_nothing(tmp_path: Path) -> None:
    pages = Journal(tmp_path / "run", tmp_path / "state", "host")
    steps = plan_up(SETTINGS, FACTS)
    pages.add(steps[0])
    old = (tmp_path / "state" / "host.json").read_bytes()
    pages.add(steps[1])
    (tmp_path / "state" / "host.json").write_bytes(old)
    assert Journal(tmp_path / "run", tmp_path / "state", "host").steps == steps[:2]


def test_the_last_step_takes_the_files_with_it(tmp_path: Path) -> None:
    pages = Journal(tmp_path / "run", tmp_path / "state", "host")
    step = plan_up(SETTINGS, FACTS)[0]
    pages.add(step)
    pages.remove(step)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_journal_that_others_could_write_is_refused(tmp_path: Path, mode: int) -> None:
    pages = Journal(tmp_path, tmp_path / "state", "host")
    pages.add(plan_up(SETTINGS, FACTS)[0])
    (tmp_path / "host.json").chmod(mode)
    with pytest.raises(OperatorError, match="others could have written it"):
        Journal(tmp_path, tmp_path / "state", "host")


def test_a_journal_that_only_root_reads_is_not_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("anonnet.tun.journal.read_own", closed)
    with pytest.raises(OperatorError) as caught:
        Journal(tmp_path, tmp_path / "state", "host")
    assert caught.value.hint == "run this with sudo"


def test_a_warden_is_seen_by_who_may_not_open_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for one, which lives until its standard input ends; then a stranger has its number."""

    def closed(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    for name, seen in (("anonnet.tun.warden", True), ("another", False)):
        with subprocess.Popen([*command, name], **pipes) as process:
            assert process.stdout is not None
            process.stdout.readline()  # while it begins, it has no command line
            (tmp_path / "warden.pid").write_text(f"{process.pid} 1\n")
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", closed)
                assert warden.runs(tmp_path) is seen
            process.communicate()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", closed)
        assert not warden.runs(tmp_path)


def test_a_journal_is_no_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "host.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperatorError, match="cannot read the journal"):
        Journal(tmp_path, tmp_path / "state", "host")


def test_a_damaged_journal_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_bytes(b"{")
    with pytest.raises(OperatorError, match="cannot read the journal"):
        Journal(tmp_path, tmp_path / "state", "host")


# -- DNS ------------------------------------------------------------------------------------------


@given(st.text())
def test_any_resolv_conf_is_read_without_an_error(text: str) -> None:
    for address in nameservers(text):
        ipaddress.ip_address(address)


def test_nameservers_in_order() -> None:
    text = (
        "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver\t2001:db8::1\n"
    )
    assert nameservers(text) == ["192.0.2.1", "2001:db8::1"]


def test_the_inner_resolver_goes_to_whoever_is_in_charge() -> None:
    commands_run = {
        manager: [str(step.do) for step in dns_steps("anonnet0", DnsFacts(manager, "/etc/resolv.conf", b""))]
        for manager in Manager
    }
    assert commands_run[Manager.RESOLVED] == [
        "resolvectl dns anonnet0 192.0.0.1",
        "resolvectl domain anonnet0 ~.",
        "resolvectl default-route anonnet0 yes",
    ]
    assert commands_run[Manager.RESOLVCONF] == [
        "resolvconf -a tun.anonnet0 -m 0 -x <<< 'nameserver 192.0.0.1'"
    ]
    assert commands_run[Manager.FILE] == ["write /etc/resolv.conf"]


@pytest.mark.parametrize(
    ("content", "here", "manager"),
    [
        (b"nameserver 127.0.0.53\n", True, Manager.RESOLVED),
        (b"nameserver 127.0.0.53\n", False, Manager.FILE),  # it serves another network namespace
        (b"nameserver 127.0.0.53\nnameserver 192.0.2.1\n", True, Manager.FILE),
        (b"nameserver 192.0.2.1\n", True, Manager.FILE),
    ],
)
def test_resolved_only_if_it_answers_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, here: bool, manager: Manager
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(content)
    monkeypatch.setattr(commands, "find", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(dns, "_resolved_is_here", lambda: here)
    assert dns_facts(path) == DnsFacts(manager, str(path), content)


def test_resolvconf_only_if_the_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "find", lambda tool: f"/usr/sbin/{tool}")
    generated = tmp_path / "resolvconf" / "resolv.conf"
    generated.parent.mkdir()
    generated.write_text("nameserver 192.0.2.1\n")
    path = tmp_path / "resolv.conf"
    path.symlink_to(generated)
    assert dns_facts(path).manager is Manager.RESOLVCONF
    monkeypatch.setattr(dns, "_is_mount_point", lambda _: True)  # as `ip netns exec` leaves it
    assert dns_facts(path).manager is Manager.FILE


def test_a_file_that_was_not_there_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    (step,) = dns_steps("anonnet0", dns_facts(path))
    assert isinstance(step.do, WriteFile)
    assert isinstance(step.undo, RestoreFile)
    dns.write_file(step.do)
    dns.restore_file(step.undo)
    assert not path.exists()


@given(st.binary(), st.integers(0, 200), st.booleans())
def test_whatever_a_crash_left_of_a_write_is_restored(content: bytes, cut: int, undoing: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "resolv.conf"
        path.write_bytes(content)
        (step,) = dns_steps("anonnet0", DnsFacts(Manager.FILE, str(path), content))
        assert isinstance(step.do, WriteFile)
        assert isinstance(step.undo, RestoreFile)
        path.write_bytes((content if undoing else step.do.content)[:cut])
        dns.restore_file(step.undo)
        assert path.read_bytes() == content


# -- commands -------------------------------------------------------------------------------------


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "find", lambda _: None)
    with pytest.raises(OperatorError, match="apt-get install nftables"):
        commands.run(["nft", "list", "tables"])


def test_a_failing_tool_is_quoted() -> None:
    with pytest.raises(OperatorError, match=r"`ls /nowhere/at/all` failed: .*No such file"):
        commands.run(["ls", "/nowhere/at/all"])


def test_actions_read_as_commands() -> None:
    shown = [str(step.do) for step in plan_up(SETTINGS, FACTS)]
    assert "ip -4 rule add not fwmark 0x616e lookup 24942 priority 1110" in shown
    assert "ip -6 rule add to fd00::/8 lookup main priority 1100" in shown
    assert str(Run(("resolvectl", "revert", "anonnet0"))) == "resolvectl revert anonnet0"
