"""An exit's circuits: how many there may be, and when an address is given out again."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from anonnet.proto.exits import LINGER_NS, ExitCircuits


def test_an_address_is_given_out_again_only_after_all_others() -> None:
    exits = ExitCircuits(IPv4Network("100.127.0.0/29"), IPv6Network("fd00::/64"))
    given = []

    def join(number: int) -> bool:
        circuit = exits.join(bytes([number]), route=number, handle=number, incarnation=0)
        if circuit is not None:
            given.append(str(IPv4Address(circuit.pool4)))
        return circuit is not None

    assert all(join(number) for number in (1, 2))
    exits.leave(1, now=0)
    assert exits.expired(LINGER_NS) == [1]
    assert all(join(number) for number in (3, 4, 5, 6))
    assert not join(7), "the pool has five addresses to give"
    assert given == [f"100.127.0.{host}" for host in (2, 3, 4, 5, 6, 2)]
