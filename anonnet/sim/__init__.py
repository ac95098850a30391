"""Whole networks under a virtual clock: the same cores as the daemon's, over a network made of lists."""
