"""Small event logs with a learnable preference, and small rankers."""

from dataclasses import dataclass

import numpy as np

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.metrics.clicks import gauc
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.ranker_training import train_ranker
from tests.events import Events

SMALL = {"embedding_dim": 8, "max_history": 12, "mlp_units": (16,), "windows_per_step": 16, "dropout": 0.0}


@dataclass(kw_only=True)
class Clicks(Events):
    p_click: np.ndarray
    traits: np.ndarray


def low_rank_clicks(users=120, items=60, events=40, cold=0, seed=0):
    """Users prefer items by two traits; the last `cold` items occur only in the last part of the time."""
    rng = np.random.default_rng(seed)
    traits = rng.normal(size=(items + 1, 2))
    taste = rng.normal(size=(users, 2))
    item_effect = rng.normal(size=items + 1)
    user = np.repeat(np.arange(users), events)
    position = np.tile(np.arange(events), users)
    early = position < events * 0.7
    item = np.where(early, rng.integers(1, items - cold + 1, len(user)), rng.integers(1, items + 1, len(user)))
    logit = 2 * np.sum(taste[user] * traits[item], 1) + item_effect[item]
    p_click = 1 / (1 + np.exp(-logit))
    return Clicks(
        offsets=np.arange(users + 1) * events,
        item_idx=item,
        label=(rng.random(len(user)) < p_click).astype(np.int8),
        timestamp=1_700_000_000 + position * 3600,
        split=np.where(early, 0, np.where(position < events * 0.85, 1, 2)).astype(np.int8),
        p_click=p_click,
        traits=np.concatenate([traits, item_effect[:, None]], 1).astype(np.float32),
    )


def small_ranker(sequences, *, epochs=1, seed=3, splits=(0,), **options):
    """Trains a small ranker and returns it with the state of the trainer."""
    settings = RankerSettings(**SMALL | {"epochs": epochs} | options)
    return train_ranker(sequences, 60, settings, TrainingContext(seed=seed, gauc=gauc), splits=splits)


def trained_states(sequences, kinds):
    """Weights after one epoch by kind; runs in a spawned rank."""
    return {kind: small_ranker(sequences, kind=kind)[0].state_dict() for kind in kinds}
