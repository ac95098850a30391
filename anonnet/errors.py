"""Whose fault an error is, and what dies of it.

A peer's fault is counted and costs the cell, else the route, else the link. The operator's is said in
one line with the way to mend it. Ours is a bug: the process crashes and the firewall stays.
"""

from __future__ import annotations

from typing import Final


class AnonNetError(Exception):
    """Base of every error that this package raises on purpose."""


class PeerFault(AnonNetError):
    """A peer broke the protocol, by malice or by bug. Never shown with its address."""


class Malformed(PeerFault):
    """Bytes that no encoder of this protocol produces."""


class Forged(PeerFault):
    """Bytes that failed authentication, or a replay."""


class Refused(PeerFault):
    """A peer declined what was asked, within the protocol. `reason` is one of wire.control.Reason."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class OperatorError(AnonNetError):
    """Something the operator can mend: `what` went wrong and `hint`, how to mend it."""

    exit_code: Final = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}: {hint}" if hint else what)
        self.what = what
        self.hint = hint


class ConfigError(OperatorError):
    """The configuration file cannot be used."""
