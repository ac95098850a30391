"""The `anonnet-tun` command. Subcommands are imported only when they are used, so that help is quick.

Exit codes: 0 done; 1 not done, with one line that says why and how to mend it; 2 wrong usage;
3 `status`: not up; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import click

from anonnet import __version__
from anonnet.errors import AnonNetError

DEFAULT_CONFIG: Final = "/etc/anonnet/anonnet.toml"
MOST_SECONDS: Final = 1_000_000  # twelve days; a socket's time-out has a limit, too
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # whatever was to be written
F = TypeVar("F", bound=Callable[..., Any])

# name: (module and attribute, what help says); in the order in which a new operator needs them
COMMANDS: Final = {
    "init": ("anonnet.cli.setup:init", "Write a configuration file and this node's keys."),
    "keygen": ("anonnet.cli.setup:keygen", "Make this node's keys."),
    "invite": ("anonnet.cli.setup:invite", "Print the line that makes this node known to another."),
    "run": ("anonnet.cli.run:run", "Run the node."),
    "up": ("anonnet.cli.up:up", "Carry all of this host's traffic through the network."),
    "down": ("anonnet.cli.down:down", "Go back to the plain Internet."),
    "stay": ("anonnet.cli.stay:stay", "Be up until `down`, whatever fails; the service does this."),
    "socks": ("anonnet.cli.socks:socks", "Run a SOCKS 5 proxy into the network, for single programs."),
    "status": ("anonnet.cli.show:status", "Say whether traffic is protected, and how the links do."),
    "peers": ("anonnet.cli.show:peers", "List the nodes that this one knows."),
    "circuits": ("anonnet.cli.show:circuits", "List this host's circuits and their routes."),
    "wait": ("anonnet.cli.wait:wait", "Return when this host is up."),
    "lan": ("anonnet.cli.outside:lan", "Let the local network be reached past the tunnel, or not."),
    "exclude": ("anonnet.cli.outside:exclude", "Run one command past the tunnel, in the clear."),
    "dns": ("anonnet.cli.outside:dns", "Say who resolves names, and resolve one."),
    "lockdown": ("anonnet.cli.lockdown:lockdown", "Block this host whenever it is not up, from boot on."),
    "doctor": ("anonnet.cli.doctor:doctor", "Look for what keeps AnonNet from working here."),
    "ping": ("anonnet.cli.ping:ping", "Send echoes to a node inside the network."),
    "debug": ("anonnet.cli.debug:debug", "Build test circuits, look at every hop, and take them down."),
    "cleanup": ("anonnet.cli.down:cleanup", "Undo every change to this host that a crash left behind."),
    "completion": ("anonnet.cli.completion:completion", "What a shell needs to complete our commands."),
    "lab": ("anonnet.cli.lab:lab", "A network of real nodes on this machine."),
    "bench": ("anonnet.cli.bench:bench", "Measure what a cell costs on this machine."),
}


class Failure(click.ClickException):
    """An error said in one line; never a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line to standard error."""
        click.echo(f"anonnet-tun: {self.message}", file=file or sys.stderr)


class Bug(Failure):
    """An error that nobody but us can mend."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


class Interrupted(Failure):
    """^C or SIGTERM, after whatever was begun has been undone."""

    exit_code = 130  # as shells say it: 128 + SIGINT


class LazyGroup(click.Group):
    """A group whose commands are in `COMMANDS`, and which turns errors into their one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands without importing them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that was asked for."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, for the same reason."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AnonNetError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            raise Failure(str(error)) from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click ends quietly when nobody reads any more, as in `status | head`
        except ModuleNotFoundError as error:
            if str(error.name).startswith("anonnet"):
                raise
            raise Failure(f"the Python package {error.name} is missing: pip install '.[lab]'") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                where = error.filename or "what this command prints or keeps"
                _drop_output()
                raise Failure(f"cannot write {where}: {error.strerror}") from None
            if ctx.params["debug"] or ctx.invoked_subcommand == "run":
                raise  # the daemon's log wants all of it
            what = f"a bug of ours: {type(error).__name__}: {error}"
            raise Bug(f"{what}: please report what `anonnet-tun --debug` shows") from None


def _drop_output() -> None:
    """Let what stdout still holds go nowhere; else Python complains of it as it ends, and makes that 120."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Seconds(click.FloatRange):
    """A number of seconds, `least` or more. A range alone lets "nan" pass, which no deadline comes after."""

    def __init__(self, least: float = 0) -> None:
        super().__init__(least, MOST_SECONDS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what is wrong with it."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return seconds


def _config_option(*names: str) -> Callable[[F], F]:
    return click.option(
        *names,
        "config_path",
        envvar="ANONNET_CONFIG",
        default=DEFAULT_CONFIG,
        show_default=True,
        show_envvar=True,
        # Who may not read it is told so, and what to do, by `load`.
        type=click.Path(dir_okay=False, readable=False, path_type=Path),
        help="Configuration file.",
    )


config_option = _config_option("-c", "--config")
long_config_option = _config_option("--config")  # for `ping`, where -c is the count, as in ping(8)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anonnet-tun")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """An anonymous network for whole hosts: constant-rate links, onion routes, a TUN device."""
