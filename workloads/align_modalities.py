"""Runs stage 1 of MIM: image and text of an item are aligned."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("align_modalities")
