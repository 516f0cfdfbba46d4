"""Serves the champion of a project over HTTP, optionally with a challenger, and follows promotions and rollbacks."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("serve")
