"""Runs stage 2 of MIM: the encoder is fine-tuned on what users choose in turn."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("fine_tune_content")
