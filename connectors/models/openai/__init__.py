"""Model servers that speak the chat completions API, in each of their dialects."""
