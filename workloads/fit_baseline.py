"""Fit baseline: the stage of that name of the recipe's method, as a program."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("fit_baseline")
