"""Statistical inference: bootstrap intervals, paired tests and shrinkage."""
