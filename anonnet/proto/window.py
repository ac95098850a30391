"""Which slots of a route have come, at its end."""

from __future__ import annotations

from typing import Final

from anonnet.crypto.replay import ReplayWindow
from anonnet.spec import SLOT_MASK

_HALF: Final = 1 << 31


class SlotWindow:
    """Replay window and loss count over 32-bit slot numbers at the end of a route."""

    __slots__ = ("_highest", "_start", "_window", "received")

    def __init__(self) -> None:
        self._window = ReplayWindow()
        self._highest = -1
        self._start = 0
        self.received = 0

    def accept(self, slot: int) -> bool:
        """False for a slot seen before, or too old to tell."""
        if self._highest < 0:
            self._highest = self._start = (1 << 32) + slot
        ahead = (slot - self._highest) & SLOT_MASK
        extended = self._highest + (ahead if ahead < _HALF else ahead - (1 << 32))
        if not self._window.accept(extended):
            return False
        self._highest = max(self._highest, extended)
        self.received += 1
        return True

    @property
    def missing(self) -> int:
        """Slots below the highest seen that never came."""
        return max(0, self._highest - self._start + 1 - self.received) if self._highest >= 0 else 0
