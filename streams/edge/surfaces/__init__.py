"""What clients are shown of a thread: the Agent Streaming Protocol, runs, plain events."""
