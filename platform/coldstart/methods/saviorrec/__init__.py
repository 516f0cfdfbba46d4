"""SaviorRec (arXiv 2508.01375): items that share semantic codes share a correction that is learned from clicks."""
