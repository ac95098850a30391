"""The suite of 2003: the primitives that the original named, behind the same interface as today's.

To study, not to hide behind; docs/history.md tells what the original did and what became of it.
"""

from __future__ import annotations

from typing import Final

from anonnet.crypto.suite import SUITE_CODES, Suite
from anonnet.crypto.suite2003 import tiger
from anonnet.crypto.suite2003.arcfour import ArcfourLink
from anonnet.crypto.suite2003.handshake import MESSAGE_LEN, REPLY_LEN, DhHandshake
from anonnet.crypto.suite2003.layer import TigerLayer

NAME: Final = "anonnet-2003"

tiger.library()  # complain when the suite is asked for, not when the first key is made

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
    weaknesses=(
        "Arcfour on links: its keystream is biased, and no protocol may use it any more (RFC 7465)",
        "keys from 2048-bit Diffie-Hellman alone: a quantum computer reads what is recorded today",
        "link handshakes show the link key of who calls; Tiger-192 has seen little study since 2010",
    ),
)
