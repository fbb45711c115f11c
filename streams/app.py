"""The composition root: the only place that knows every adapter.

Each `open_*` is an async context manager over an `AsyncExitStack`: what it opened is closed in
reverse order. Parts can be passed by keyword, so that tests put a twin in place.
"""
