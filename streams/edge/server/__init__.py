"""The edge's server: connections, who calls, limits, problems, health."""
