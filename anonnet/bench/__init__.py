"""What a cell costs: `anonnet-tun bench` (docs/performance.md)."""
