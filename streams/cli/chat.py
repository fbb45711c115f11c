"""`turnstream chat`."""


def chat() -> None:
    """Talk to an agent in the terminal."""
