"""Wire formats: one file each, one declaration each, sizes derived from it (docs/protocol.md)."""
