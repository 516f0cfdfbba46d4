"""What `prepare` does with events, in DuckDB: look up items, drop repeats, sort, write lists per user. Run by path."""

import sys

import duckdb

directory, out = sys.argv[1:]
duckdb.sql("SET memory_limit = '4GB'")
duckdb.sql(f"""
    COPY (
        SELECT user_id, list(item_idx ORDER BY timestamp) AS item_idx, list(timestamp ORDER BY timestamp) AS timestamp,
            list(clicked ORDER BY timestamp) AS clicked
        FROM (
            SELECT user_id, item_idx, timestamp, max(clicked) AS clicked
            FROM '{directory}/events.parquet'
            JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) AS item_idx FROM '{directory}/items.parquet')
            USING (item_id)
            GROUP BY user_id, item_idx, timestamp
        )
        GROUP BY user_id ORDER BY user_id
    ) TO '{out}' (COMPRESSION zstd)
""")
print(duckdb.sql(f"SELECT sum(len(item_idx)) FROM '{out}'").fetchall()[0][0])
