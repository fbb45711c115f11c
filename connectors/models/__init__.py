"""Model servers: the OpenAI-compatible streaming client and a scripted server."""
