"""The generated catalogue: a simulated content platform whose click probabilities are known.

It is a measuring instrument. Every click is drawn from a true probability `p_click`; `p_click_content` is what somebody
who knows the platform perfectly could still say from a user and what an item shows. The gap between the two is appeal
that nothing shows, which no content model can close.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.config.errors import UserError
from coldstart.config.recipe import Generated
from coldstart.data.drawing import PICTURE_TRAITS, WORD_TRAITS, Levels, draw_pictures, write_words

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REVISION = 2
"""Raised whenever the same settings and seed would give other rows."""

TASTE_WIDTH = 6
BASE_RATE = 0.35
_USER_STD = 0.5
_START = 1_735_689_600  # 2025-01-01 00:00 UTC
_DAY = 86_400
_FADE_DAYS = 5.0
_FLOOR = 0.05
_CHUNK = 250_000
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


@dataclass(frozen=True)
class _Side:
    """What half of the traits adds to the log-odds; `I` items, `C` combinations of trait levels, `K` taste width."""

    combo: Ints  # [I]
    taste: Floats  # [C, K]
    appeal: Floats  # [C]

    def scaled(self, taste: float, appeal: float) -> "_Side":
        return _Side(self.combo, self.taste * taste, self.appeal * appeal)


@dataclass(frozen=True)
class _Users:
    """Tastes that turn from `start` towards `aim` (orthogonal, same length) by `turn` radians over the whole time."""

    start: Floats  # [U, K]
    aim: Floats  # [U, K]
    turn: Floats  # [U]
    bias: Floats  # [U]

    def taste(self, user: Ints, when: Floats) -> Floats:
        """Taste vectors [n, K] of users at `when` in 0..1 of the simulated time."""
        angle = (self.turn[user] * when)[:, None]
        return self.start[user] * np.cos(angle) + self.aim[user] * np.sin(angle)


@dataclass(frozen=True)
class _World:
    picture: _Side
    words: _Side
    hidden: Floats  # [I]
    users: _Users
    shares: dict[str, float]


def generate(settings: Generated, seed: int, out: Path) -> None:
    """Writes `items.parquet`, `events.parquet` and `truth.json` into `out`.

    Args:
        settings: Size and make-up of the platform.
        seed: The same settings and seed give the same bytes.
        out: Directory; made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    traits, drawing, wording, world_rng, traffic, clicks = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(6)
    )
    span = settings.weeks * 7 * _DAY
    created = np.sort(traits.integers(0, span, settings.items))
    levels = {name: traits.integers(0, n, settings.items) for name, n in (PICTURE_TRAITS | WORD_TRAITS).items()}
    has_picture = traits.random(settings.items) >= settings.missing_picture
    has_text = traits.random(settings.items) >= settings.missing_text
    # Numbers say nothing about the time of publication.
    item_ids = np.array([f"i{number:07d}" for number in traits.permutation(settings.items)])

    titles, texts = write_words(levels, has_text, wording)
    pictures = draw_pictures(levels, settings.picture_size, drawing)
    images = [image if shown else None for image, shown in zip(pictures, has_picture, strict=True)]
    table = {"item_id": item_ids, "title": titles, "text": texts, "image": pa.array(images, pa.large_binary())}
    pq.write_table(pa.table(table | {"created_at": _START + created}), out / "items.parquet", row_group_size=512)

    world = _make_world(settings, levels, world_rng)
    when, user, item = _expose(settings, created, traffic)
    p_click, p_content = _probabilities(world, user, item, when / span, has_picture)
    label = clicks.random(len(p_click)) < p_click
    events: dict[str, Any] = {
        "user_id": pa.array([f"u{number:06d}" for number in range(settings.users)]).take(pa.array(user)),
        "item_id": pa.array(item_ids).take(pa.array(item)),
        "timestamp": _START + when,
        "label": label.astype(np.int8),
        "p_click": p_click.astype(np.float32),
        "p_click_content": p_content.astype(np.float32),
    }
    pq.write_table(pa.table(events), out / "events.parquet", row_group_size=100_000)
    truth = {
        "variance_shares": world.shares,
        "logit_std": settings.logit_std,
        "events": len(label),
        "base_rate": float(label.mean()),
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=2))


def _make_world(settings: Generated, levels: Levels, rng: np.random.Generator) -> _World:
    """Draws tastes and appeals, scaled so that the variance between items is divided as the settings say."""
    users = _draw_users(settings.users, rng)
    picture, words = (_draw_side(levels, traits, rng) for traits in (PICTURE_TRAITS, WORD_TRAITS))
    times = np.linspace(0, 1, 9)
    tastes = np.concatenate([users.taste(np.arange(settings.users), np.full(settings.users, t)) for t in times])
    second_moment = tastes.T @ tastes / len(tastes)

    def taste_variance(side: _Side) -> float:
        return _at_least(np.sum(second_moment * np.cov(side.taste[side.combo].T, bias=True)))

    shown = 1 - settings.taste_share - settings.hidden_share
    if shown < 0:
        raise UserError("data.generated: taste_share + hidden_share exceeds 1; lower one of them")
    halves = [
        side.scaled(
            np.sqrt(settings.taste_share / 2 / taste_variance(side)),
            np.sqrt(shown / 2 / _at_least(side.appeal[side.combo].var())),
        )
        for side in (picture, words)
    ]
    taste = halves[0].taste[halves[0].combo] + halves[1].taste[halves[1].combo]
    appeal = halves[0].appeal[halves[0].combo] + halves[1].appeal[halves[1].combo]
    explained = np.column_stack([np.ones(settings.items), taste, appeal])
    hidden = rng.normal(size=settings.items)
    # Chance correlation with what is shown would let content tell a little of what nothing shows.
    hidden -= explained @ np.linalg.lstsq(explained, hidden, rcond=None)[0]
    hidden *= np.sqrt(settings.hidden_share / _at_least(hidden.var()))

    mixed = appeal + hidden
    cross = tastes.mean(0) @ ((taste - taste.mean(0)).T @ (mixed - mixed.mean()) / settings.items)
    total = np.sum(second_moment * np.cov(taste.T, bias=True)) + 2 * cross + mixed.var()
    scale = settings.logit_std / np.sqrt(_at_least(total))
    halves = [side.scaled(scale, scale) for side in halves]
    parts = {
        "taste_picture": taste_variance(halves[0]),
        "taste_words": taste_variance(halves[1]),
        "appeal_picture": float(halves[0].appeal[halves[0].combo].var()),
        "appeal_words": float(halves[1].appeal[halves[1].combo].var()),
        "hidden": float((hidden * scale).var()),
    }
    shares = {name: variance / settings.logit_std**2 for name, variance in parts.items()}
    return _World(halves[0], halves[1], hidden * scale, users, shares)


def _at_least(variance: float) -> float:
    """A variance fit to divide by, where a handful of items leaves none."""
    return max(float(variance), 1e-9)


def _draw_users(count: int, rng: np.random.Generator) -> _Users:
    start, aim = rng.normal(size=(2, count, TASTE_WIDTH))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    aim -= np.sum(aim * start, axis=1, keepdims=True) * start
    aim /= np.linalg.norm(aim, axis=1, keepdims=True)
    return _Users(start, aim, np.radians(rng.uniform(45, 60, count)), rng.normal(0, _USER_STD, count))


def _draw_side(levels: Levels, traits: dict[str, int], rng: np.random.Generator) -> _Side:
    """Sums independent level effects over traits, tabulated by combination of levels."""
    shape = tuple(traits.values())
    grid = np.unravel_index(np.arange(np.prod(shape)), shape)
    taste, appeal = np.zeros((len(grid[0]), TASTE_WIDTH)), np.zeros(len(grid[0]))
    for axis, count in zip(grid, shape, strict=True):
        effect = rng.normal(size=(count, TASTE_WIDTH + 1))
        effect -= effect.mean(0)
        taste, appeal = taste + effect[axis, :-1], appeal + effect[axis, -1]
    combo = np.ravel_multi_index(tuple(levels[name] for name in traits), shape)
    return _Side(combo.astype(np.int64), taste, appeal)


def _expose(settings: Generated, created: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Draws impressions in order of time: seconds since start, user [n], item [n].

    A pair comes at most once; where users have seen nearly everything, fewer events come out than were asked for.
    """
    hours = settings.weeks * 7 * 24
    hour_weight = 1 + 0.8 * np.cos(2 * np.pi * (np.arange(hours) % 24 - 20) / 24)
    # Nothing is shown before a sixteenth of the time has passed, or until there is something to show.
    hour_weight[: max(hours // 16, int(created[0] // 3600) + 1)] = 0
    if not hour_weight.any():
        hour_weight[-1] = 1
    hour = rng.choice(hours, settings.events, p=hour_weight / hour_weight.sum())
    when = np.sort(hour * 3600 + rng.integers(0, 3600, settings.events))
    activity = rng.lognormal(0, 0.7, settings.users)
    popularity = rng.lognormal(0, 0.8, settings.items)
    user, item = np.zeros((2, settings.events), np.int64)
    redraw = np.arange(settings.events)
    for _ in range(8):
        user[redraw] = rng.choice(settings.users, len(redraw), p=activity / activity.sum())
        item[redraw] = _choose_items(when[redraw], created, popularity, rng)
        _, first = np.unique(user * settings.items + item, return_index=True)
        seen = np.ones(settings.events, bool)
        seen[first] = False
        redraw = np.flatnonzero(seen)
        if not len(redraw):
            break
    keep = ~seen
    return when[keep], user[keep], item[keep]


def _choose_items(when: Ints, created: Ints, popularity: Floats, rng: np.random.Generator) -> Ints:
    """Items already published at the full hour, by popularity times a floor plus an exponential fade with age."""
    hour = when // 3600
    chosen = np.empty(len(when), np.int64)
    starts = np.flatnonzero(np.diff(hour, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(when)], strict=True):
        now = hour[start] * 3600
        published = max(int(np.searchsorted(created, now, side="right")), 1)
        age = (now - created[:published]) / _DAY
        cumulative = np.cumsum(popularity[:published] * (_FLOOR + np.exp(-age / _FADE_DAYS)))
        chosen[start:stop] = np.searchsorted(cumulative, rng.random(stop - start) * cumulative[-1], side="right")
    return np.minimum(chosen, len(created) - 1)


def _probabilities(
    world: _World, user: Ints, item: Ints, when: Floats, has_picture: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """True click probability of each event, and its expectation given the user and what the item's content shows."""
    known, pictured, hidden = np.empty((3, len(user)))
    for rows in _slices(len(user)):
        taste = world.users.taste(user[rows], when[rows])
        words, picture = world.words.combo[item[rows]], world.picture.combo[item[rows]]
        known[rows] = (
            world.users.bias[user[rows]] + world.words.appeal[words] + np.sum(taste * world.words.taste[words], 1)
        )
        pictured[rows] = world.picture.appeal[picture] + np.sum(taste * world.picture.taste[picture], 1)
        hidden[rows] = world.hidden[item[rows]]
    base = _base_log_odds(known + pictured + hidden)
    p_click = _sigmoid(base + known + pictured + hidden)

    spread = world.hidden.std()
    content = np.empty(len(user))
    for rows in _slices(len(user)):
        content[rows] = _smoothed((base + known + pictured)[rows], spread)
    unseen = np.flatnonzero(~has_picture[item])
    for chosen in np.array_split(unseen, len(unseen) // 2048 + 1):
        taste = world.users.taste(user[chosen], when[chosen])
        pictures = taste @ world.picture.taste.T + world.picture.appeal
        content[chosen] = _smoothed(base + known[chosen, None] + pictures, spread).mean(1)
    return p_click, content


def _smoothed(log_odds: Floats, spread: float) -> Floats:
    """E[sigmoid(log_odds + N(0, spread^2))] by Gauss-Hermite quadrature."""
    weights = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
    total = np.zeros_like(log_odds)
    for node, weight in zip(_NODES, weights, strict=True):
        total += weight * _sigmoid(log_odds + spread * node)
    return total


def _base_log_odds(log_odds: Floats) -> float:
    """The intercept at which the mean click probability is the base rate."""
    sample = log_odds[:: max(len(log_odds) // 100_000, 1)]
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(sample + middle).mean() < BASE_RATE else (low, middle)
    return (low + high) / 2


def _sigmoid(log_odds: Floats) -> Floats:
    probability: Floats = 0.5 + 0.5 * np.tanh(log_odds / 2)  # does not overflow
    return probability


def _slices(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
