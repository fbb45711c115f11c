"""Twins of what lies outside, in memory: for tests, benches and tools. One module a port."""
