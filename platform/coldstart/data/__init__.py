"""Data: from a user's files, or a synthetic catalog, to a dataset and the batches read from it."""
