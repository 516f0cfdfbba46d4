"""What lies in a dataset directory: column names and types, split codes, and how rows are laid into files."""

import pyarrow as pa

TRAIN, VALID, TEST, UNUSED = range(4)
"""Split codes. Events that are UNUSED are counted but stand in no sequence, so they cannot be in a history."""

WITHHELD = "withheld"
"""Directory of an item holdout: all sequences again with the UNUSED events in them, for an evaluation's oracle."""

SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}

ITEMS_PER_PART = 2048
ITEMS_PER_ROW_GROUP = 16
"""Small, so that reading one item at random costs little more than that item."""
USERS_PER_PART = 1024

ITEMS = pa.schema(
    [
        pa.field("item_idx", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("picture", pa.large_binary()),
        pa.field("created_at", pa.int64()),
        pa.field("first_event_at", pa.int64()),
        pa.field("num_train_events", pa.int32(), nullable=False),
        pa.field("num_train_clicks", pa.int32(), nullable=False),
    ]
)
"""One row per item, ordered by `item_idx` 1..N (0 is OOV and has none). The last three columns know only train.

Encoded features follow, named by their keys: `item.<name>` here, `user.<name>` (a value per user) and `context.<name>`
(a list) in the sequences.
"""

LAYOUT = 2
"""Raised with every change of what prepare writes, so that a pipeline prepares anew what an earlier release wrote."""

DIGESTS = ("words_digest", "picture_digest")
"""Columns (int64) of the items after those of ITEMS: items that show the same have the same digest."""

FEATURES = "features.json"
"""The schema of the features in a dataset, and of a ranker that reads them; not there if there are none."""

ORACLE = ("p_click", "p_click_content")
"""Columns that only generated data has and only evaluation may read."""

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
"""One row per user, ordered by `user_idx`; lists are in order of time. Generated data adds ORACLE lists (float32)."""

QUARANTINE = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Rejected rows: which table, the row's number in it (from 0, files in order of name), its ids, and why."""
