"""Steady load while releases are promoted and replicas are killed: failed requests, wrong scores and memory growth."""
