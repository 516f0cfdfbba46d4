"""The data room: from a user's files, or the generated catalogue, to a dataset and the batches read from it."""
