"""Flat event logs, the input of `UserWindows`."""

from dataclasses import dataclass

import numpy as np

from coldstart.data.features import NO_TARGET_FEATURES, TargetFeatures


@dataclass
class Events:
    offsets: np.ndarray
    item_idx: np.ndarray
    label: np.ndarray
    timestamp: np.ndarray
    split: np.ndarray
    features: TargetFeatures = NO_TARGET_FEATURES
