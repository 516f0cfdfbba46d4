"""Comparisons of evaluated runs: of two, of several seeds, of releases, and the ablation."""
