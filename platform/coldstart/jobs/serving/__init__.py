"""Serving jobs: the server, refresh of its items, and replay of logged requests."""
