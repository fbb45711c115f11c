"""Requests written by hand, and all that touches aiokafka's private names."""
