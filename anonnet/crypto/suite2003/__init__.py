"""The suite of 2003: the primitives that the original named, behind the same interface as today's.

To study, not to hide behind; docs/history.md tells what the original did and what became of it.
"""

from __future__ import annotations

from typing import Final

from anonnet.crypto.onion import SUBKEY_LEN, LayerKeys
from anonnet.crypto.suite import SUITE_CODES, Suite
from anonnet.crypto.suite2003 import tiger
from anonnet.crypto.suite2003.arcfour import ArcfourLink
from anonnet.crypto.suite2003.handshake import KEY_LEN, MESSAGE_LEN, REPLY_LEN, DhHandshake
from anonnet.crypto.suite2003.layer import TigerLayer
from anonnet.spec import HEADER_LEN, NARROW, TAG_LEN
from anonnet.wire.cell import rows

NAME: Final = "anonnet-2003"

ANONNET_2003: Final = Suite(
    name=NAME,
    code=SUITE_CODES[NAME],
    link_handshake="AnonNetDH_link_MODP2048_Tiger192",
    hop_handshake="AnonNetDH_hop_MODP2048_Tiger192",
    hop_lengths=(MESSAGE_LEN, REPLY_LEN),
    handshake=DhHandshake,
    derive=tiger.hkdf_tiger,
    sealer=lambda key: ArcfourLink(key).seal,
    opener=lambda key: ArcfourLink(key).open,
    layer=TigerLayer,
    link_key_len=KEY_LEN,
)


def _rehearse() -> None:
    """Do everything once: libraries load parts of themselves at first use.

    In a data plane that took 4 ms when its first route was laid, and everybody on the wire saw a late tick.
    This is before the daemon forks. A host without libgcrypt is told here.
    """
    (row,) = rows(NARROW, 1)
    link = ArcfourLink(bytes(KEY_LEN))
    header, sealed = memoryview(bytes(HEADER_LEN)), memoryview(bytearray(NARROW.cell_len + TAG_LEN))
    link.seal(header, row.cell, None, sealed)
    link.open(header, sealed, None, row.cell)
    layer = TigerLayer(LayerKeys(*[bytes(SUBKEY_LEN)] * 3))
    layer.encipher(0, row, row)
    layer.decipher(0, row)


_rehearse()
