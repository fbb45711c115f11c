"""The usage processor: token totals derived from the results."""
