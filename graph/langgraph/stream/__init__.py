"""From the stream of a brought graph to the events of its turn."""
