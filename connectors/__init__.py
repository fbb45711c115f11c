"""What touches the outside: Kafka, Postgres, model servers, the schema registry."""
