"""What `prepare` does with events, in Polars: look up items, drop repeats, sort, write lists per user. Run by path."""

import sys

import polars as pl

directory, out = sys.argv[1:]
items = pl.scan_parquet(f"{directory}/items.parquet").select("item_id").sort("item_id").with_row_index("item_idx", 1)
events = pl.scan_parquet(f"{directory}/events.parquet").join(items, on="item_id")
events = events.sort("clicked", descending=True).unique(["user_id", "item_idx", "timestamp"], keep="first")
events = events.sort("user_id", "timestamp").group_by("user_id", maintain_order=True)
lists = events.agg("item_idx", "timestamp", "clicked").collect()
lists.write_parquet(out, compression="zstd")
print(lists["item_idx"].list.len().sum())
