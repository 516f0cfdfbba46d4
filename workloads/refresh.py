"""Refresh: encodes new and changed items of the catalog and publishes them to the store of a served release."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("refresh")
