"""Train oracle: trains a ranker that has ID rows of held-out items, as an upper bound for proxies."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("train_oracle")
