"""Steady load while models are promoted and replicas die: what comes back, and what stays in memory."""
