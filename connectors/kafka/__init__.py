"""Kafka: the pump that produces, the inbox that takes in, the tail that edges read."""
