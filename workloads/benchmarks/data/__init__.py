"""Preparation of large logs against engines for tables."""
