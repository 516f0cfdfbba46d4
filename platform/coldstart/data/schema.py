"""The layout of a dataset directory: column names and types, split codes, rows per file."""

import pyarrow as pa

TRAIN, VALID, TEST, EXCLUDED = range(4)
"""Split codes. EXCLUDED events are counted, but they are in no sequence, so they cannot be in a history."""

HELD_OUT = "held_out"
"""Directory of an item holdout: all sequences again, including the EXCLUDED events, for the oracle in evaluation."""

SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}

ITEMS_PER_PART = 2048
ITEMS_PER_ROW_GROUP = 16
"""Small, so that a random read of one item reads few others."""
USERS_PER_PART = 1024

ITEMS = pa.schema(
    [
        pa.field("item_idx", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("image", pa.large_binary()),
        pa.field("created_at", pa.int64()),
        pa.field("first_event_at", pa.int64()),
        pa.field("num_train_events", pa.int32(), nullable=False),
        pa.field("num_train_clicks", pa.int32(), nullable=False),
    ]
)
"""One row per item, ordered by `item_idx` 1..N (0 is OOV and has no row). The last three columns are of train events.

Columns with encoded features follow, named by their keys: `item.<name>` here, `user.<name>` (a value per user) and
`context.<name>` (a list) in the sequences.
"""

LAYOUT = 3
"""Increased whenever the output of prepare changes, so that a pipeline prepares an older dataset again."""

DIGESTS = ("text_digest", "image_digest")
"""Columns (int64) after those of ITEMS: hashes of an item's text and image, equal for equal content."""

FEATURES = "features.json"
"""File with the feature schema of a dataset or a ranker; absent if there are no features."""

ORACLE = ("p_click", "p_click_content")
"""Columns with true click probabilities: only generated data has them, and only evaluation may read them."""

SEQUENCES = pa.schema(
    [
        pa.field("user_idx", pa.int32(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_idx", pa.list_(pa.int32()), nullable=False),
        pa.field("label", pa.list_(pa.int8()), nullable=False),
        pa.field("timestamp", pa.list_(pa.int64()), nullable=False),
        pa.field("split", pa.list_(pa.int8()), nullable=False),
    ]
)
"""One row per user, ordered by `user_idx`; lists are ordered by time. Generated data adds ORACLE lists (float32)."""

QUARANTINE = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Rejected rows: table, row number (from 0, files ordered by name), ids and reason."""
