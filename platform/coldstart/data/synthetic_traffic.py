"""Impressions of the synthetic catalog: who sees which item when."""

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Generated

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

DAY = 86_400
_FADE_DAYS = 5.0
_FLOOR = 0.05
_ROUNDS = 8


def draw_impressions(settings: Generated, created: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Draws impressions in order of time: seconds since start [n], user [n], item [n].

    A user sees an item at most once, and an item is shown at most `max_events_per_item` times. There are fewer events
    than requested if users have seen nearly all items, or few published items are below that limit.

    Args:
        settings: Size of the platform.
        created: [items] ascending publication times, in seconds since start.
        rng: Source of times, users and items.
    """
    hours = settings.weeks * 7 * 24
    hour_weight = 1 + 0.8 * np.cos(2 * np.pi * (np.arange(hours) % 24 - 20) / 24)
    # No impressions in the first sixteenth of the period, nor before the first item is published.
    hour_weight[: max(hours // 16, int(created[0] // 3600) + 1)] = 0
    if not hour_weight.any():
        hour_weight[-1] = 1
    size = settings.request_size
    requests = -(-settings.events // size)
    hour = rng.choice(hours, requests, p=hour_weight / hour_weight.sum())
    request = np.arange(settings.events) // size
    when = np.sort(hour * 3600 + rng.integers(0, 3600, requests))[request]
    activity = rng.lognormal(0, 0.7, settings.users)
    popularity = rng.lognormal(0, 0.8, settings.items)
    user = rng.choice(settings.users, requests, p=activity / activity.sum())[request]
    item = np.zeros(settings.events, np.int64)
    redraw = np.arange(settings.events)
    available = popularity
    for attempt in range(_ROUNDS):
        # A user who has seen all items gives way to another one; the items of one request have the same user.
        if attempt and size == 1:
            user[redraw] = rng.choice(settings.users, len(redraw), p=activity / activity.sum())
        item[redraw] = _choose_items(when[redraw], created, available, rng)
        _, first = np.unique(user * settings.items + item, return_index=True)
        keep = np.zeros(settings.events, bool)
        keep[first] = True
        if settings.max_events_per_item is not None:
            keep &= _within_limit(item, keep, settings.max_events_per_item)
            shown = np.bincount(item[keep], minlength=settings.items)
            available = np.where(shown < settings.max_events_per_item, popularity, 0)
        redraw = np.flatnonzero(~keep)
        if not len(redraw):
            break
    return when[keep], user[keep], item[keep]


def _within_limit(item: Ints, counted: Mask, limit: int) -> Mask:
    """Which events [n] are among the first `limit` of their item that are counted."""
    order = np.argsort(item, kind="stable")
    before: Ints = np.cumsum(counted[order]) - counted[order]
    starts = np.flatnonzero(np.diff(item[order], prepend=-1))
    of_item: Ints = before - np.repeat(before[starts], np.diff(starts, append=len(item)))
    within = np.empty(len(item), bool)
    within[order] = of_item < limit
    return within


def _choose_items(when: Ints, created: Ints, popularity: Floats, rng: np.random.Generator) -> Ints:
    """Draws items published before the hour, by popularity times a floor plus an exponential decay with age."""
    hour = when // 3600
    chosen = np.empty(len(when), np.int64)
    starts = np.flatnonzero(np.diff(hour, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(when)], strict=True):
        now = hour[start] * 3600
        published = max(int(np.searchsorted(created, now, side="right")), 1)
        age = (now - created[:published]) / DAY
        cumulative = np.cumsum(popularity[:published] * (_FLOOR + np.exp(-age / _FADE_DAYS)))
        drawn = np.searchsorted(cumulative, rng.random(stop - start) * cumulative[-1], side="right")
        # Beyond the last one if no item is available.
        chosen[start:stop] = np.minimum(drawn, published - 1)
    return chosen
