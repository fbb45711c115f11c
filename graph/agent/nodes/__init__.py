"""The nodes of the built-in agent."""
