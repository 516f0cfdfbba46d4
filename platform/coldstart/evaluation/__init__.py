"""Metrics, slices, confidence intervals, variants and reports."""
