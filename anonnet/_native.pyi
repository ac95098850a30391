"""The native module (anonnet/native): its types have the interfaces of the Python ones of the same names."""

from typing import Final

from anonnet.crypto.onion import Layer as Layer
from anonnet.crypto.onion import Onion as Onion
from anonnet.crypto.replay import ReplayWindow as ReplayWindow
from anonnet.proto.intake import Intake as Intake
from anonnet.proto.intake import ReceiveSession as ReceiveSession
from anonnet.proto.queue import ForwardQueue as _PythonQueue
from anonnet.proto.slots import Filler as Filler
from anonnet.proto.slots import Lane as Lane
from anonnet.proto.slots import fill as fill
from anonnet.proto.transit import Inlet as Inlet
from anonnet.proto.transit import Outlet as Outlet
from anonnet.proto.window import SlotWindow as SlotWindow
from anonnet.spec import Format

SOURCES: Final[str]  # which sources it was built from: native.sources.fingerprint
CONSTANTS: Final[dict[str, int]]

class ForwardQueue(_PythonQueue):
    def __init__(
        self,
        fmt: Format,
        capacity: int,
        prefill: int,
        tick: int,
        ample: int,
        majority: float,
        stall: float,
        near: int,
        good: int,
        surplus: float,
        plenty: float,
        anew: int,
        spacing: int,
    ) -> None: ...

class Sealer:
    def __init__(self, key: bytes) -> None: ...
    def __call__(self, nonce: memoryview, cell: memoryview, extra: None, sealed: memoryview, /) -> int: ...

class Opener:
    def __init__(self, key: bytes) -> None: ...
    def __call__(self, nonce: memoryview, sealed: memoryview, extra: None, cell: memoryview, /) -> int: ...
