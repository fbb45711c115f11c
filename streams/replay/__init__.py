"""Replay of the log: records folded and judged by their digests."""
