"""Asks every node of a cluster whether it can run a recipe."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("doctor")
