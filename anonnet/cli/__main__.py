"""`python -m anonnet.cli` is `anonnet-tun`, also where nothing is installed."""

from anonnet.cli import main

main(prog_name="anonnet-tun")
