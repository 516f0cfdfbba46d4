"""Measures hot paths against a ceiling or a peer in the same run."""
