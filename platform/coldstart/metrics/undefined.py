"""Undefined values of metrics, in JSON."""

import math
from typing import Any


def nan_to_none(value: Any) -> Any:
    """Replaces NaN and infinity by `None`, for JSON."""
    if isinstance(value, dict):
        return {key: nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
