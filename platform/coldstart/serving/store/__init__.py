"""The item store: rows of items on disk and in Redis, and the log of publications."""
