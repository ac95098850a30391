"""Sockets with batched I/O, and the loop that drives a data plane core; the only place that reads a clock."""
