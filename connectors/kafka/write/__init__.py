"""What is written to Kafka: rounds of events, commands, single records."""
