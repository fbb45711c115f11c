"""A scripted OpenAI-compatible server, for tests, benches and a first look without a model."""
