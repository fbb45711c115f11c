"""What is said: records, ids, topics, errors and the fold."""
