"""A network of real nodes in network namespaces on one machine (docs/lab.md)."""
