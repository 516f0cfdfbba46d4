"""The methods: one folder per paper. `available` has the table of them, `base` the contract that they implement.

This package and every `config.py` in it import nothing heavy, because every recipe reads the methods' settings.
"""

import coldstart.config  # noqa: F401  # First, because the recipe imports the methods' settings.
