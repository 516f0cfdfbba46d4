"""The synthetic catalog: a simulated content platform with known click probabilities.

Every click is drawn from a true probability `p_click`. `p_click_content` is its expectation given the user and the
item's content: the best possible prediction from content. The gap between the two is the unobserved item effect, which
no content model can close.
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
from coldstart.data.synthetic_images import IMAGE_TRAITS, TEXT_TRAITS, Levels, draw_images, write_texts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REVISION = 2
"""Increased whenever the same settings and seed give other rows."""

PREFERENCE_DIM = 6
BASE_RATE = 0.35
_USER_STD = 0.5
_START = 1_735_689_600  # 2025-01-01 00:00 UTC
_DAY = 86_400
_FADE_DAYS = 5.0
_FLOOR = 0.05
_CHUNK = 250_000
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


@dataclass(frozen=True)
class _ModalityEffects:
    """Contribution of one modality's traits to the log-odds.

    Legend: `I` items, `C` combinations of trait levels, `K` dimensions of user preferences.
    """

    combo: Ints  # [I]
    preference: Floats  # [C, K]
    item_effect: Floats  # [C]

    def scaled(self, preference: float, item_effect: float) -> "_ModalityEffects":
        return _ModalityEffects(self.combo, self.preference * preference, self.item_effect * item_effect)


@dataclass(frozen=True)
class _Users:
    """User preferences that rotate from `start` towards `aim` (orthogonal, same length) by `turn` radians over time."""

    start: Floats  # [U, K]
    aim: Floats  # [U, K]
    turn: Floats  # [U]
    bias: Floats  # [U]

    def preferences(self, user: Ints, when: Floats) -> Floats:
        """Preference vectors [n, K] of users at times `when` in 0..1 of the simulated period."""
        angle = (self.turn[user] * when)[:, None]
        return self.start[user] * np.cos(angle) + self.aim[user] * np.sin(angle)


@dataclass(frozen=True)
class _World:
    image: _ModalityEffects
    text: _ModalityEffects
    unobserved: Floats  # [I]
    users: _Users
    shares: dict[str, float]


def generate(settings: Generated, seed: int, out: Path) -> None:
    """Writes `items.parquet`, `events.parquet` and `truth.json` into `out`.

    Args:
        settings: Size and composition of the platform.
        seed: The same settings and seed give the same bytes.
        out: Directory; created if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    traits, drawing, wording, world_rng, traffic, clicks = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(6)
    )
    span = settings.weeks * 7 * _DAY
    created = np.sort(traits.integers(0, span, settings.items))
    levels = {name: traits.integers(0, n, settings.items) for name, n in (IMAGE_TRAITS | TEXT_TRAITS).items()}
    has_image = traits.random(settings.items) >= settings.missing_image
    has_text = traits.random(settings.items) >= settings.missing_text
    # Permuted, so that an id does not reveal the time of publication.
    item_ids = np.array([f"i{number:07d}" for number in traits.permutation(settings.items)])

    titles, texts = write_texts(levels, has_text, wording)
    drawn = draw_images(levels, settings.image_size, drawing)
    images = [image if shown else None for image, shown in zip(drawn, has_image, strict=True)]
    table = {"item_id": item_ids, "title": titles, "text": texts, "image": pa.array(images, pa.large_binary())}
    pq.write_table(pa.table(table | {"created_at": _START + created}), out / "items.parquet", row_group_size=512)

    world = _make_world(settings, levels, world_rng)
    when, user, item = _expose(settings, created, traffic)
    p_click, p_content = _probabilities(world, user, item, when / span, has_image)
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
    """Draws preferences and item effects, scaled to the variance shares in the settings."""
    users = _draw_users(settings.users, rng)
    image, text = (_draw_modality(levels, traits, rng) for traits in (IMAGE_TRAITS, TEXT_TRAITS))
    times = np.linspace(0, 1, 9)
    preferences = np.concatenate(
        [users.preferences(np.arange(settings.users), np.full(settings.users, t)) for t in times]
    )
    second_moment = preferences.T @ preferences / len(preferences)

    def personalization_variance(modality: _ModalityEffects) -> float:
        return _at_least(np.sum(second_moment * np.cov(modality.preference[modality.combo].T, bias=True)))

    shown = 1 - settings.personalization_share - settings.unobserved_share
    if shown < 0:
        raise UserError("data.generated: personalization_share + unobserved_share exceeds 1; lower one of them")
    modalities = [
        modality.scaled(
            np.sqrt(settings.personalization_share / 2 / personalization_variance(modality)),
            np.sqrt(shown / 2 / _at_least(modality.item_effect[modality.combo].var())),
        )
        for modality in (image, text)
    ]
    preference = modalities[0].preference[modalities[0].combo] + modalities[1].preference[modalities[1].combo]
    item_effect = modalities[0].item_effect[modalities[0].combo] + modalities[1].item_effect[modalities[1].combo]
    explained = np.column_stack([np.ones(settings.items), preference, item_effect])
    unobserved = rng.normal(size=settings.items)
    # Removes chance correlation with content, which would make the unobserved effect partly predictable.
    unobserved -= explained @ np.linalg.lstsq(explained, unobserved, rcond=None)[0]
    unobserved *= np.sqrt(settings.unobserved_share / _at_least(unobserved.var()))

    mixed = item_effect + unobserved
    cross = preferences.mean(0) @ ((preference - preference.mean(0)).T @ (mixed - mixed.mean()) / settings.items)
    total = np.sum(second_moment * np.cov(preference.T, bias=True)) + 2 * cross + mixed.var()
    scale = settings.logit_std / np.sqrt(_at_least(total))
    modalities = [modality.scaled(scale, scale) for modality in modalities]
    parts = {
        "personalization_image": personalization_variance(modalities[0]),
        "personalization_text": personalization_variance(modalities[1]),
        "item_effect_image": float(modalities[0].item_effect[modalities[0].combo].var()),
        "item_effect_text": float(modalities[1].item_effect[modalities[1].combo].var()),
        "unobserved": float((unobserved * scale).var()),
    }
    shares = {name: variance / settings.logit_std**2 for name, variance in parts.items()}
    return _World(modalities[0], modalities[1], unobserved * scale, users, shares)


def _at_least(variance: float) -> float:
    """A lower bound on a variance, to divide by: very few items can have variance 0."""
    return max(float(variance), 1e-9)


def _draw_users(count: int, rng: np.random.Generator) -> _Users:
    start, aim = rng.normal(size=(2, count, PREFERENCE_DIM))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    aim -= np.sum(aim * start, axis=1, keepdims=True) * start
    aim /= np.linalg.norm(aim, axis=1, keepdims=True)
    return _Users(start, aim, np.radians(rng.uniform(45, 60, count)), rng.normal(0, _USER_STD, count))


def _draw_modality(levels: Levels, traits: dict[str, int], rng: np.random.Generator) -> _ModalityEffects:
    """Draws independent effects of trait levels, and tabulates their sums by combination of levels."""
    shape = tuple(traits.values())
    grid = np.unravel_index(np.arange(np.prod(shape)), shape)
    preference, item_effect = np.zeros((len(grid[0]), PREFERENCE_DIM)), np.zeros(len(grid[0]))
    for axis, count in zip(grid, shape, strict=True):
        effect = rng.normal(size=(count, PREFERENCE_DIM + 1))
        effect -= effect.mean(0)
        preference, item_effect = preference + effect[axis, :-1], item_effect + effect[axis, -1]
    combo = np.ravel_multi_index(tuple(levels[name] for name in traits), shape)
    return _ModalityEffects(combo.astype(np.int64), preference, item_effect)


def _expose(settings: Generated, created: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Draws impressions in order of time: seconds since start [n], user [n], item [n].

    A user sees an item at most once. If users have seen nearly all items, there are fewer events than requested.
    """
    hours = settings.weeks * 7 * 24
    hour_weight = 1 + 0.8 * np.cos(2 * np.pi * (np.arange(hours) % 24 - 20) / 24)
    # No impressions in the first sixteenth of the period, nor before the first item is published.
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
    """Draws items published before the hour, by popularity times a floor plus an exponential decay with age."""
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
    world: _World, user: Ints, item: Ints, when: Floats, has_image: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """True click probability of each event, and its expectation given the user and the item's content."""
    from_text, from_image, unobserved = np.empty((3, len(user)))
    for rows in _slices(len(user)):
        preference = world.users.preferences(user[rows], when[rows])
        text, image = world.text.combo[item[rows]], world.image.combo[item[rows]]
        from_text[rows] = (
            world.users.bias[user[rows]]
            + world.text.item_effect[text]
            + np.sum(preference * world.text.preference[text], 1)
        )
        from_image[rows] = world.image.item_effect[image] + np.sum(preference * world.image.preference[image], 1)
        unobserved[rows] = world.unobserved[item[rows]]
    base = _base_log_odds(from_text + from_image + unobserved)
    p_click = _sigmoid(base + from_text + from_image + unobserved)

    spread = world.unobserved.std()
    content = np.empty(len(user))
    for rows in _slices(len(user)):
        content[rows] = _smoothed((base + from_text + from_image)[rows], spread)
    unseen = np.flatnonzero(~has_image[item])
    for chosen in np.array_split(unseen, len(unseen) // 2048 + 1):
        preference = world.users.preferences(user[chosen], when[chosen])
        any_image = preference @ world.image.preference.T + world.image.item_effect
        content[chosen] = _smoothed(base + from_text[chosen, None] + any_image, spread).mean(1)
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
