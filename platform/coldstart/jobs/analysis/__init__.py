"""Analysis jobs: evaluation, ablation and comparison of runs and releases."""
