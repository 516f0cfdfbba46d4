"""What a release does with a request: look up items, call models, score candidates."""
