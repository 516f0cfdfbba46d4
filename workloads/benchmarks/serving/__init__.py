"""Throughput and latency of the application, against a ceiling without Ray and against Serve's defaults."""
