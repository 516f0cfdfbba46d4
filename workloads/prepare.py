"""Prepare: reads items and events once, with Ray Data, into the immutable dataset that all later stages use."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("prepare")
