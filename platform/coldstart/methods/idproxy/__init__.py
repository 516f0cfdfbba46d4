"""IDProxy (arXiv 2603.01590): content becomes a proxy of the ID embedding that a new item does not have."""
