"""HTTP/1.1 and server-sent events, for every provider of models."""
