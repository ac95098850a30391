"""Print the tables of docs/adversary.md, or draw its figures.

python -m anonnet.sim.adversary [--bounds | --plot DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from anonnet.sim.adversary import bounds, figures
from anonnet.sim.adversary.model import DAYS, Attack


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m anonnet.sim.adversary", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the figures into DIR, as SVG")
    parser.add_argument(
        "--callers", type=int, default=figures.CALLERS, help="for each share of corrupt relays"
    )
    parser.add_argument("--bounds", action="store_true", help="only the tables that need no playing")
    arguments = parser.parse_args()
    if arguments.plot:
        for path in figures.draw(arguments.plot, arguments.callers):
            print(path)
        return
    for line in bounds.tables():
        print(line)
    if arguments.bounds:
        return
    print("| routes | attack | policy | ever compromised | share of time | service | builds a day | exits |")
    print("|---|---|---|---|---|---|---|---|")
    for routes in (1, 2, 3):
        compared = figures.policies(routes)
        for attack in Attack:
            cases = [(policy, attack) for policy in compared.values()]
            months = figures.played(cases, [figures.AMONG], arguments.callers)
            for name, (month,) in zip(compared, months, strict=True):
                shares = (month.ever, month.compromised, month.up)
                counts = month.builds.mean() / DAYS, month.exits.mean()
                cells = [f"{100 * share.mean():.2f} %" for share in shares] + [f"{n:.0f}" for n in counts]
                print(f"| {routes} | {attack.value} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
