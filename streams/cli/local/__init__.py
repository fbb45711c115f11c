"""Commands for the stack on this machine."""
