"""Suites, handshakes, the onion layer, the replay window. Primitives come from libraries only."""
