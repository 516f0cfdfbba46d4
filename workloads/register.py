"""Registers the models of a run in MLflow, with lineage and the metrics that the promotion gates use."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("register")
