"""Benchmark of coldstart's rankers against those of torch-rechub and FuxiCTR on the same rows."""
