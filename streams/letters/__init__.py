"""Dead letters: found, read, requeued and dropped."""
