"""Settings, and the place that knows every adapter."""
