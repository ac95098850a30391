"""The protocol as sans-IO state machines: bytes and time in; bytes, events and a deadline out.

Nothing here touches a socket, a clock or randomness: `now` (int nanoseconds, monotonic) and
`random: Callable[[int], bytes]` are arguments. Every machine speaks with the same few verbs: `receive`,
`poll_transmit`, `next_deadline`, `on_deadline`.
"""
