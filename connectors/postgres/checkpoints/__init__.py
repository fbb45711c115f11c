"""LangGraph's checkpoints, written under the fence of an attempt."""
