"""Compares champion and challenger on the same new events, each scored as it is served, and names the winner."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("compare_releases")
