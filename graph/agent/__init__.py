"""The built-in agent: its graph, its settings and its answers."""
