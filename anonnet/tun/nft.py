"""nft's grammar (nft(8)), and libnftables for a process that keeps tables of its own.

A ruleset is text for `nft -f -`, which applies it in one transaction: the table is declared (so that it
surely exists), deleted, and created anew, and no packet ever meets a half-built one.
"""

from __future__ import annotations

import ctypes
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from anonnet.errors import OperatorError

_STATELESS: Final = 1 << 1  # NFT_CTX_OUTPUT_STATELESS, nftables/libnftables.h


def fresh(family: str, table: str, contents: Iterable[str]) -> str:
    """Return the text that creates a table with these sets and chains, replacing any former one."""
    return f"{gone(family, table)}table {family} {table} {{\n" + "".join(contents) + "}\n"


def gone(family: str, table: str) -> str:
    """Return the text that deletes a table, declared first since deleting an absent one is an error."""
    return f"table {family} {table}\ndelete table {family} {table}\n"


def owned(family: str, table: str, contents: Iterable[str]) -> str:
    """Return the text that creates or replaces a table that nobody but the creating process can touch.

    The kernel refuses others' changes to it, leaves it out when they flush the ruleset, and deletes it
    when the process ends.
    """
    declared = f"table {family} {table} {{\n\tflags owner;\n}}\ndelete table {family} {table}\n"
    return f"{declared}table {family} {table} {{\n\tflags owner;\n" + "".join(contents) + "}\n"


def chain(name: str, hook: str, rules: Iterable[str]) -> str:
    """Return the text of a chain; `hook` is "" for one that others jump to."""
    head = f"\t\t{hook};\n" if hook else ""
    return f"\tchain {name} {{\n{head}" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n"


def range_match(text: str, field: Literal["saddr", "daddr"]) -> str:
    """Return the expression that matches an address range in a header's field."""
    version = ipaddress.ip_network(text).version
    return f"{'ip' if version == 4 else 'ip6'} {field} {text}"


class Library:
    """A libnftables context: runs commands without a process for each, and owns what `owned` makes."""

    def __init__(self) -> None:
        """Raise OperatorError where the library is missing (Debian: libnftables1, which nft itself needs)."""
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise OperatorError(f"no libnftables: {error}", "apt-get install nftables") from None
        library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
        self._library = library
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_output_set_flags(self._context, ctypes.c_uint(_STATELESS))

    def run(self, script: str) -> str:
        """Run commands as one transaction; return what they print, or raise OperatorError."""
        code = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        said = self._library.nft_ctx_get_output_buffer(self._context).decode()
        if code:
            errors = self._library.nft_ctx_get_error_buffer(self._context).decode().strip()
            reason = errors.splitlines()[0] if errors else f"code {code}"
            raise OperatorError(f"nft failed: {reason}", "does this kernel have nf_tables?")
        return str(said)

    def listing(self, tables: Sequence[tuple[str, str]]) -> str | None:
        """Return the present content of tables (family, name), None if one of them is missing."""
        try:  # one by one: nft 1.0.6 forgets the first when it looks up the second
            return "".join(self.run(f"list table {family} {table}") for family, table in tables)
        except OperatorError:
            return None

    def close(self) -> None:
        """Free the context; the tables that it owns go with it."""
        self._library.nft_ctx_free(self._context)
