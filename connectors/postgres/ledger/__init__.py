"""The ledger: turns, leases, tool calls, and the signals between processes."""
