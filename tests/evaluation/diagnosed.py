"""Diagnostics as `diagnose` returns them, without models."""

from typing import Any


def interval(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


DIAGNOSTICS: dict[str, Any] = {
    "id_space": {
        "items": 1000,
        "test_items": 100,
        "held_out": True,
        "dim": 32,
        "participation_ratio": 4.2,
        "item_effect": 0.31,
        "item_effect_cosine": 0.95,
        "directions": [{"share": 0.6, "r2": 0.5}, {"share": 0.4, "r2": -0.1}],
        "r2": interval(0.4),
        "r2_item_effect": interval(0.6),
        "r2_rest": interval(0.3),
        "recall": {"at_1": 0.02, "at_10": 0.12},
        "chance_recall": {"at_1": 0.001, "at_10": 0.01},
    },
    "attention": {
        "cold": {
            "oov": {
                "history_weight": 0.9,
                "normalized_entropy": 1.0,
                "clicked_weight": 0.36,
                "clicked_fraction": 0.36,
                "total_variation": 0.0,
                "targets": 50,
            },
            "id": {
                "history_weight": 0.9,
                "normalized_entropy": 1.0,
                "clicked_weight": 0.36,
                "clicked_fraction": 0.36,
                "total_variation": 0.0,
                "targets": 50,
            },
            "fine": {
                "history_weight": 0.9,
                "normalized_entropy": 0.8,
                "clicked_weight": 0.5,
                "clicked_fraction": 0.36,
                "total_variation": 0.3,
                "targets": 50,
            },
        },
        "mature": {
            name: {
                "history_weight": 0.9,
                "normalized_entropy": 0.8,
                "clicked_weight": 0.5,
                "clicked_fraction": 0.36,
                "total_variation": 0.4,
                "targets": 50,
            }
            for name in ("oov", "id", "fine")
        },
    },
    "gains": {"items": 600, "left_out": 100, "improved_fraction": 0.7, "mean": 0.012, "best": [], "worst": []},
    "modalities": {
        "rows": 5000,
        "users": 900,
        "inputs": {
            "both": {"gain": interval(0.1), "drop": interval(0.0, 0)},
            "image": {"gain": interval(0.05), "drop": interval(0.05)},
            "text": {"gain": interval(0.08), "drop": interval(0.02, 0.03)},
        },
    },
}
