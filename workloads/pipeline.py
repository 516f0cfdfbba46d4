"""Runs all stages in order, from the user's files to registered models, and skips stages with unchanged inputs."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("pipeline")
