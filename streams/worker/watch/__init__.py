"""Whether this worker may work: its lease, Kafka's acks, its event loop, its memory."""
