"""What the graph side needs from outside, as Protocols; streams hands the adapters in."""
