"""One attempt at one turn of a graph: its input, what it said, how it ends."""
