"""The inspection of a prepared dataset before anything is trained on it: numbers, warnings, and a page."""
