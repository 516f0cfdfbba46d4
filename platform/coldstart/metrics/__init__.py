"""Metrics: of click predictions (AUC, GAUC, log loss, calibration) and of retrieval. NumPy and torch only."""
