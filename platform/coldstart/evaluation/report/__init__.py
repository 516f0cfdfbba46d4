"""The report of a run: tables for the terminal, and a self-contained HTML page."""
