"""What is read from Kafka: the inbox of workers, the tail of edges, bounded scans."""
