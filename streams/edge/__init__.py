"""The edge: one process that holds the sockets."""
