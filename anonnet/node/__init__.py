"""The daemon: keeper, control process, data-plane process, and what operators set and ask."""
