"""Baselines of the methods, trained and selected with as much effort as the methods themselves."""
