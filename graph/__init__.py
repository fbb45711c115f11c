"""What the agent decides: state, nodes, tools, the runner and the translator."""
