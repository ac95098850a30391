"""`anonnet-tun completion`: what a shell needs to complete our commands (click's shell completion)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from anonnet.errors import OperatorError

PROGRAM = "anonnet-tun"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for SHELL: eval "$(anonnet-tun completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    try:
        script = kind(ctx.find_root().command, {}, PROGRAM, "_ANONNET_TUN_COMPLETE").source()
    except RuntimeError as error:  # bash of before 4.4
        raise OperatorError(str(error), "use a newer shell") from None
    click.echo(script)
