"""`python -m anonnet.node FILE [debug] [verbose] [traceback]`: the node, which `anonnet-tun run` turns into.

A program of its own, without click: what a command line takes would stay in the node's three processes.
So would typing_extensions, which msgspec imports if it can, and does without.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from anonnet.errors import AnonNetError


def main(file: str, *wishes: str) -> int:
    """Run the node of this configuration; return the exit code."""
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # before msgspec
    try:
        from anonnet.node import keeper  # noqa: PLC0415
        from anonnet.node.config import load  # noqa: PLC0415
        from anonnet.node.privileges import be_called  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f"anonnet-tun: the Python package {error.name} is missing: install anew", file=sys.stderr)
        return 1

    be_called("anonnet-tun")  # whose place it took
    try:
        return keeper.run(load(Path(file)), "debug" in wishes, "verbose" in wishes)
    except AnonNetError as error:
        if "traceback" in wishes:
            traceback.print_exc()
        print(f"anonnet-tun: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("anonnet-tun: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
