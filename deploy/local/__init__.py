"""The local stack: real Kafka, Postgres and a model from packages alone."""
