"""Runs the whole product: pipeline, promotion, serving and real requests, and writes a summary."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("demo")
