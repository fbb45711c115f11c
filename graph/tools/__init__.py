"""The tools that the built-in agent has."""
