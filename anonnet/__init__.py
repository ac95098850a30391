"""AnonNet: an anonymous network for whole Linux hosts."""

__version__ = "0.1.0"
