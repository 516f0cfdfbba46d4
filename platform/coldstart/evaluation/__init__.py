"""Metrics, slices, intervals, variants and the report."""
