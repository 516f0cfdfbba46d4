"""Diagnostics: where and why a method gains or loses, beyond its metrics."""
