"""Stages that every method shares: dataset, ranker, and their registration."""
