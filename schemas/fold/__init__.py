"""The fold of a thread's records, and what people and clients read of it."""
