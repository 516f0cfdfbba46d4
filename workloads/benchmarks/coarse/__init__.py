"""The coarse stage measured: what it costs above a plain script, and what it holds in memory and on disk."""
