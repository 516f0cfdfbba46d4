"""Import ranker: an existing ranker, or only its ID table, becomes the ranker of the run."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("import_ranker")
