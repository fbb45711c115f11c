"""How the edge follows a thread through the log: offsets, records and changes."""
