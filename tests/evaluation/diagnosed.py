"""A diagnosis as `diagnose` gives it, without models."""

from typing import Any


def interval(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


DIAGNOSIS: dict[str, Any] = {
    "id_space": {
        "items": 1000,
        "judged": 100,
        "kept_out": True,
        "width": 32,
        "effective": 4.2,
        "appeal": 0.31,
        "first_is_appeal": 0.95,
        "directions": [{"share": 0.6, "r2": 0.5}, {"share": 0.4, "r2": -0.1}],
        "r2": interval(0.4),
        "r2_appeal": interval(0.6),
        "r2_rest": interval(0.3),
        "found": {"at_1": 0.02, "at_10": 0.12},
        "chance": {"at_1": 0.001, "at_10": 0.01},
    },
    "adaptor": {
        "items": 700,
        "gate": {
            "mean": 0.5,
            "open": 0.0,
            "closed": 0.01,
            "directions_open": 0,
            "directions_closed": 0,
            "by_direction": [0.3, 0.7],
        },
        "scale": 0.5,
        "length": 0.4,
        "id_length": 0.8,
        "spread": 0.3,
        "id_spread": 0.6,
    },
    "gaze": {
        "cold": {
            "oov": {"past": 0.9, "evenness": 1.0, "liked": 0.36, "liked_events": 0.36, "moved": 0.0, "targets": 50},
            "id": {"past": 0.9, "evenness": 1.0, "liked": 0.36, "liked_events": 0.36, "moved": 0.0, "targets": 50},
            "fine": {"past": 0.9, "evenness": 0.8, "liked": 0.5, "liked_events": 0.36, "moved": 0.3, "targets": 50},
        },
        "mature": {
            name: {"past": 0.9, "evenness": 0.8, "liked": 0.5, "liked_events": 0.36, "moved": 0.4, "targets": 50}
            for name in ("oov", "id", "fine")
        },
    },
    "gains": {"items": 600, "left_out": 100, "better": 0.7, "mean": 0.012, "most": [], "least": []},
    "modalities": {
        "rows": 5000,
        "users": 900,
        "readings": {
            "both": {"gain": interval(0.1), "lacks": interval(0.0, 0)},
            "picture": {"gain": interval(0.05), "lacks": interval(0.05)},
            "words": {"gain": interval(0.08), "lacks": interval(0.02, 0.03)},
        },
    },
}
