"""Compares the methods and their baselines: tunes all equally, over seeds, and tests their differences."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("compare")
