"""The evaluation protocol: slices, variants, scored rows, and metrics that are merged from parts of the rows."""
