"""A SOCKS 5 proxy for single programs, with and without `up`: its sockets reach nothing but the tunnel."""
