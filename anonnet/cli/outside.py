"""`anonnet-tun lan`, `exclude` and `dns`: what stays outside of the tunnel, and where names are resolved."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import time
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec

from anonnet.cli import config_option
from anonnet.errors import OperatorError
from anonnet.node.config import load
from anonnet.node.sections import Config
from anonnet.spec import INNER4_EXIT
from anonnet.tun import cgroup, host
from anonnet.tun.commands import require_net_admin
from anonnet.tun.dns import dns_facts, nameservers
from anonnet.tun.upplan import UpSettings, saved_settings

# What `lan on` means where the configuration names nothing: addresses that no router on the Internet carries
# (RFC 1918, RFC 3927, RFC 4193, RFC 4291), and the groups in which devices of a home find each other.
LOCAL: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
    *("224.0.0.0/24", "239.0.0.0/8", "255.255.255.255/32", "ff02::/16", "ff05::/16"),
)


def lan_ranges(config: Config, wish: str) -> tuple[str, ...]:
    """Return the ranges that `on` or `off` means."""
    return (config.caller.lan or LOCAL) if wish == "on" else ()


def running(config: Config) -> UpSettings:
    """Return what the present `up` was told; OperatorError if nothing is up."""
    require_net_admin()
    settings = saved_settings(config.node.run_dir)
    if settings is None:
        raise OperatorError("this host is not up", "begin with: anonnet-tun up")
    return settings


@click.command()
@config_option
@click.argument("wish", type=click.Choice(["on", "off"]), required=False)
def lan(config_path: Path, wish: str | None) -> None:
    """Let the local network be reached past the tunnel, or not, until `down`; bare: say how it is.

    Which ranges that is, `caller.lan` of the configuration says; else all private ones. Port 53 stays closed.
    """
    config = load(config_path)
    settings = running(config)
    if wish is not None:
        settings = msgspec.structs.replace(settings, lan=lan_ranges(config, wish))
        host.change(settings)
    click.echo(
        f"past the tunnel, both ways: {', '.join(settings.lan)}" if settings.lan else "the LAN is closed"
    )


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@config_option
@click.option("--root", is_flag=True, help="Stay root, rather than who called sudo.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exclude(config_path: Path, root: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND past the tunnel, in the clear, with all that it starts. Names are still resolved inside."""
    settings = running(load(config_path))
    if shutil.which(command[0]) is None:
        raise OperatorError(f"no command {command[0]!r}", "is it installed?")
    if not settings.programs:
        settings = msgspec.structs.replace(settings, programs=cgroup.path())
        host.change(settings)
    cgroup.enter(settings.programs)
    _become(command, root)


@click.command()
@config_option
@click.argument("name", required=False)
def dns(config_path: Path, name: str | None) -> None:
    """Say who resolves names; with NAME, resolve it. Exit code 1 if that is not asked through the circuit."""
    settings = running(load(config_path))
    facts = dns_facts(settings.resolv_conf)
    servers = nameservers((facts.content or b"").decode(errors="replace"))
    click.echo(f"{'manager':<12}{facts.manager.value}")
    click.echo(f"{'file':<12}{facts.path}: {', '.join(servers) or 'no server'}")
    click.echo(f"{'inside':<12}{INNER4_EXIT}; port 53 anywhere else is closed")
    if facts.manager == "file" and servers != [INNER4_EXIT]:
        raise OperatorError(
            f"{facts.path} names another server", "the warden puts that right; is it running?"
        )
    if name is not None:
        began = time.monotonic()
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
        except OSError as error:
            raise OperatorError(f"{name} is not resolved ({error})", "see `anonnet-tun status`") from None
        took = (time.monotonic() - began) * 1000
        click.echo(f"{name:<12}{', '.join(sorted(found))} in {took:.0f} ms")


def _become(command: tuple[str, ...], root: bool) -> NoReturn:
    """Run the command in this process's place, as whoever called sudo."""
    uid = os.environ.get("SUDO_UID", "")
    if uid.isdigit() and not root:
        entry = pwd.getpwuid(int(uid))
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    os.execvp(command[0], command)  # noqa: S606  the very command that was asked for
