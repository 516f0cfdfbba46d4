"""Train ranker: trains the CTR model whose ID space is the target of the alignment, on Ray Train with DDP."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("train_ranker")
