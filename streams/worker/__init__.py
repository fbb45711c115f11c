"""The worker: takes turns in, runs them, publishes them."""
