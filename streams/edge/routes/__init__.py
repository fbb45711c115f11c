"""The REST surface of the edge."""
