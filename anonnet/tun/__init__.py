"""The host: TUN device, firewall, policy routing, DNS, and the exit's NAT. Knows nothing of the daemon.

Every change is a `Step`, a pair of actions (do, undo) that are plain data. Pure functions build lists of
them; `apply.Session` writes the undo to a journal, then does; `host` and `exit` are what others import.
"""
