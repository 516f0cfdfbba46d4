"""Evaluates all variants of a run on the same test rows, with confidence intervals, and writes a report."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("evaluate")
