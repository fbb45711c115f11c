"""The records that topics carry: events, commands, results, and their Avro schemas."""
