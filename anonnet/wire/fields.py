"""Messages declared once: a dataclass whose annotations say how wide each field is on the wire.

    @dataclass(frozen=True, slots=True)
    class Refused:
        route: Annotated[RouteId, ROUTE]
        reason: Annotated[Reason, REASON]

A message is a type byte and its fields in order, big-endian, with nothing between or after them.
`Codec` derives both directions from the declaration, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from enum import IntEnum
from typing import Any, Final, Generic, Protocol, TypeVar, get_type_hints

from anonnet.errors import Malformed

M = TypeVar("M")


class Field(Protocol):
    """How one field is written. `size` is its length in bytes, None for "all that is left"."""

    @property
    def size(self) -> int | None: ...

    def encode(self, value: Any) -> bytes:
        """Return the field's bytes; raise ValueError or OverflowError on an illegal value."""

    def decode(self, raw: bytes) -> Any:
        """Return the field's value; raise ValueError on bytes that stand for no legal one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """An unsigned integer of `size` bytes, within `legal` where that is given."""

    size: int
    legal: Container[int] | None = None

    def encode(self, value: int) -> bytes:
        return self._checked(value).to_bytes(self.size, "big")

    def decode(self, raw: bytes) -> int:
        return self._checked(int.from_bytes(raw, "big"))

    def _checked(self, value: int) -> int:
        if self.legal is not None and value not in self.legal:
            raise ValueError(f"{value} is not a legal value")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """One byte that stands for a member of an enumeration."""

    names: type[IntEnum]
    size: int = 1

    def encode(self, value: IntEnum) -> bytes:
        return self.names(value).to_bytes(1, "big")

    def decode(self, raw: bytes) -> IntEnum:
        return self.names(raw[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Exactly:
    """`size` opaque bytes."""

    size: int

    def encode(self, value: bytes) -> bytes:
        if len(value) != self.size:
            raise ValueError(f"{len(value)} bytes where {self.size} are due")
        return value

    def decode(self, raw: bytes) -> bytes:
        return raw


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """Opaque bytes up to the message's end, of a length within `lengths`; only as the last field."""

    lengths: range
    size: None = None

    def encode(self, value: bytes) -> bytes:
        if len(value) not in self.lengths:
            raise ValueError(f"{len(value)} bytes are too few or too many")
        return value

    decode = encode


U24: Final = Number(3)
U32: Final = Number(4)
U64: Final = Number(8)


class Codec(Generic[M]):
    """Encoder and decoder of a closed set of messages, from their table of types."""

    def __init__(self, table: Mapping[int, type[M]]) -> None:
        self._classes = dict(table)
        self._types = {cls: kind for kind, cls in table.items()}
        self._fields = {cls: _fields(cls) for cls in table.values()}

    def encode(self, message: M) -> bytes:
        """Return the bytes of a message; ValueError or OverflowError if it holds an illegal value."""
        fields = self._fields[type(message)]
        parts = [field.encode(getattr(message, name)) for name, field in fields.items()]
        return bytes([self._types[type(message)]]) + b"".join(parts)

    def decode(self, data: bytes) -> M:
        """Return the one message that `data` is; raise Malformed if no encoder makes these bytes."""
        cls = self._classes.get(data[0]) if data else None
        if cls is None:
            raise Malformed("no message of this type")
        values = {}
        at = 1
        for name, field in self._fields[cls].items():
            end = len(data) if field.size is None else at + field.size
            if end > len(data):
                raise Malformed(f"{cls.__name__} ends inside its {name}")
            try:
                values[name] = field.decode(data[at:end])
            except ValueError as error:
                raise Malformed(f"{cls.__name__}, {name}: {error}") from error
            at = end
        if at != len(data):
            raise Malformed(f"{cls.__name__} has {len(data) - at} bytes too many")
        return cls(**values)


def _fields(cls: type) -> dict[str, Field]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(cls)}
