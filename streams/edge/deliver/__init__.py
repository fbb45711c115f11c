"""How events reach sockets and streams."""
