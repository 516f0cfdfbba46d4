"""The world behind the synthetic catalog: what users prefer, what items are worth, and the click probabilities.

Legend: `U` users, `I` items, `C` combinations of the trait levels of a modality, `K` dimensions of user preferences.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Generated
from coldstart.data.logistic import intercept, mixture_sigmoid, sigmoid, smoothed_sigmoid
from coldstart.data.synthetic_images import IMAGE_TRAITS, TEXT_TRAITS, Levels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PREFERENCE_DIM = 6
BASE_RATE = 0.35
_USER_STD = 0.5
_CHUNK = 250_000
_SMALL_CHUNK = 2048
"""Rows at a time when all combinations of a modality are in memory."""
_PER_LOOK = IMAGE_TRAITS["pattern"]
_PER_CLUSTER = TEXT_TRAITS["setting"]
"""Consecutive combinations with the same look (hue and shape), and in the same content cluster (topic and tone)."""


@dataclass(frozen=True)
class ModalityEffects:
    """Contribution of one modality's traits to the log-odds.

    Attributes:
        combo: [I] combination of each item.
        shown: [I] combination that the item's content shows.
        posterior: [C, C] probabilities of the combinations, given the one that content shows.
        preference: [C, K] coefficients of user preferences.
        item_effect: [C] the same for all users.
    """

    combo: Ints
    shown: Ints
    posterior: Floats
    preference: Floats
    item_effect: Floats

    @property
    def preferences(self) -> Floats:
        """[I, K] coefficients of each item."""
        return self.preference[self.combo]

    @property
    def item_effects(self) -> Floats:
        """[I] effect of each item."""
        return self.item_effect[self.combo]

    def scaled(self, preference: float, item_effect: float) -> "ModalityEffects":
        """Both effects, multiplied by a number each."""
        scaled = self.preference * preference, self.item_effect * item_effect
        return ModalityEffects(self.combo, self.shown, self.posterior, *scaled)


@dataclass(frozen=True)
class Users:
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
class World:
    """All effects on the click log-odds.

    Attributes:
        image: Effects of the image's traits.
        text: Effects of the text's traits.
        unobserved: [I] item effect that content does not show.
        users: Preferences and biases.
        looks: [U, hue x shape] preference of each user for each look.
        clusters: [2, topic x tone] effects of content clusters before and after `drift_at`.
        drift_at: Fraction of the simulated period.
        content_quality: Share of traits that content shows.
        shares: Part -> its fraction of the variance of the log-odds.
    """

    image: ModalityEffects
    text: ModalityEffects
    unobserved: Floats
    users: Users
    looks: Floats
    clusters: Floats
    drift_at: float
    content_quality: float
    shares: dict[str, float]

    def phase(self, when: Floats) -> Ints:
        """0 before and 1 after the drift, at times [n] in 0..1 of the simulated period."""
        return (when >= self.drift_at).astype(np.int64)


def make_world(settings: Generated, levels: Levels, shown: Levels, rng: np.random.Generator) -> World:
    """Draws preferences and item effects, scaled to the variance shares in the settings.

    Args:
        settings: Shares, spread and content quality.
        levels: Trait name -> level of each item.
        shown: Trait name -> level of each item that its content shows.
        rng: Source of all effects.
    """
    users = _draw_users(settings.users, rng)
    quality = settings.content_quality
    image, text = (_draw_modality(levels, shown, quality, traits, rng) for traits in (IMAGE_TRAITS, TEXT_TRAITS))
    second_moment, mean_preference = _preference_moments(users)

    def personalization_variance(preference: Floats) -> float:
        return float(np.sum(second_moment * np.cov(preference.T, bias=True)))

    image, text = (
        modality.scaled(
            np.sqrt(settings.personalization_share * share / _at_least(personalization_variance(modality.preferences))),
            np.sqrt(settings.shown_share * share / _at_least(modality.item_effects.var())),
        )
        for modality, share in ((image, settings.image_share), (text, 1 - settings.image_share))
    )
    preference, item_effect = image.preferences + text.preferences, image.item_effects + text.item_effects
    unobserved = rng.normal(size=settings.items)
    looks = _draw_looks(settings, image.combo // _PER_LOOK, rng)
    clusters = _draw_clusters(settings, text.combo // _PER_CLUSTER, rng)
    of_cluster = clusters[:, text.combo // _PER_CLUSTER]
    explained = [np.ones(settings.items), preference, item_effect, *(of_cluster if settings.cluster_share else ())]
    unobserved = _uncorrelated(unobserved, np.column_stack(explained))
    unobserved *= np.sqrt(settings.unobserved_share / _at_least(unobserved.var()))

    totals = []
    for effect in of_cluster:
        mixed = item_effect + unobserved + effect
        cross = mean_preference @ ((preference - preference.mean(0)).T @ (mixed - mixed.mean()) / settings.items)
        totals.append(personalization_variance(preference) + 2 * cross + mixed.var())
    scale = settings.logit_std / np.sqrt(_at_least(np.mean(totals) + settings.look_share))
    image, text, unobserved = image.scaled(scale, scale), text.scaled(scale, scale), unobserved * scale
    parts = {
        "personalization_image": _at_least(personalization_variance(image.preferences)),
        "personalization_text": _at_least(personalization_variance(text.preferences)),
        "item_effect_image": float(image.item_effects.var()),
        "item_effect_text": float(text.item_effects.var()),
        "unobserved": float(unobserved.var()),
    }
    if settings.look_share:
        parts["looks"] = settings.look_share * scale**2
    if settings.cluster_share:
        parts["clusters"] = float(of_cluster.var(axis=1).mean() * scale**2)
    shares = {name: variance / settings.logit_std**2 for name, variance in parts.items()}
    drift_at = 1.0 if settings.drift_at is None else settings.drift_at
    return World(image, text, unobserved, users, looks * scale, clusters * scale, drift_at, quality, shares)


def _uncorrelated(values: Floats, others: Floats) -> Floats:
    """Values [I] without chance correlation with columns [I, n], which would make them partly predictable."""
    residual: Floats = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
    return residual


def _at_least(variance: float) -> float:
    """A lower bound on a variance, to divide by: very few items can have variance 0."""
    return max(float(variance), 1e-9)


def _draw_users(count: int, rng: np.random.Generator) -> Users:
    start, aim = rng.normal(size=(2, count, PREFERENCE_DIM))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    aim -= np.sum(aim * start, axis=1, keepdims=True) * start
    aim /= np.linalg.norm(aim, axis=1, keepdims=True)
    return Users(start, aim, np.radians(rng.uniform(45, 60, count)), rng.normal(0, _USER_STD, count))


def _preference_moments(users: Users) -> tuple[Floats, Floats]:
    """Second moment [K, K] and mean [K] of the preferences of all users over time."""
    count = len(users.turn)
    preferences = np.concatenate(
        [users.preferences(np.arange(count), np.full(count, time)) for time in np.linspace(0, 1, 9)]
    )
    return preferences.T @ preferences / len(preferences), preferences.mean(0)


def _draw_modality(
    levels: Levels, shown: Levels, quality: float, traits: dict[str, int], rng: np.random.Generator
) -> ModalityEffects:
    """Draws independent effects of trait levels, and tabulates their sums by combination of levels."""
    shape = tuple(traits.values())
    grid = np.unravel_index(np.arange(np.prod(shape)), shape)
    preference, item_effect = np.zeros((len(grid[0]), PREFERENCE_DIM)), np.zeros(len(grid[0]))
    for axis, count in zip(grid, shape, strict=True):
        effect = rng.normal(size=(count, PREFERENCE_DIM + 1))
        effect -= effect.mean(0)
        preference, item_effect = preference + effect[axis, :-1], item_effect + effect[axis, -1]
    combo, visible = (np.ravel_multi_index(tuple(of[name] for name in traits), shape) for of in (levels, shown))
    by_trait = [quality * np.eye(count) + (1 - quality) / count for count in shape]
    posterior: Floats = np.ones((1, 1))
    for levels_of in by_trait:
        posterior = np.asarray(np.kron(posterior, levels_of), np.float64)
    return ModalityEffects(combo.astype(np.int64), visible.astype(np.int64), posterior, preference, item_effect)


def _draw_looks(settings: Generated, look: Ints, rng: np.random.Generator) -> Floats:
    """Preferences [U, hue x shape] without a structure that users share."""
    shape = (settings.users, IMAGE_TRAITS["hue"] * IMAGE_TRAITS["shape"])
    if not settings.look_share:
        return np.zeros(shape)
    items = np.bincount(look, minlength=shape[1]) / len(look)
    preferences = rng.normal(size=shape)
    preferences -= (preferences @ items)[:, None]
    return np.asarray(preferences * np.sqrt(settings.look_share / _at_least(float(np.mean(preferences**2 @ items)))))


def _draw_clusters(settings: Generated, cluster: Ints, rng: np.random.Generator) -> Floats:
    """Effects [2, topic x tone] before and after the drift, uncorrelated over items."""
    count = TEXT_TRAITS["topic"] * TEXT_TRAITS["tone"]
    if not settings.cluster_share:
        return np.zeros((2, count))
    items = np.bincount(cluster, minlength=count) / len(cluster)
    effects = rng.normal(size=(2, count))
    effects -= (effects @ items)[:, None]
    effects[1] -= effects[0] * (effects[0] * items @ effects[1]) / _at_least(effects[0] ** 2 @ items)
    effects *= np.sqrt(settings.cluster_share / np.maximum(effects**2 @ items, 1e-9))[:, None]
    return effects if settings.drift_at is not None else effects[[0, 0]]


def click_probabilities(
    world: World, user: Ints, item: Ints, when: Floats, has_image: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """True click probability of each event, and its expectation given the user and the item's content.

    Args:
        world: All effects.
        user: [n] users.
        item: [n] items.
        when: [n] times in 0..1 of the simulated period.
        has_image: [I] whether content has an image.
    """
    from_text, from_image, unobserved = np.empty((3, len(user)))
    for rows in _slices(len(user)):
        preference = world.users.preferences(user[rows], when[rows])
        text, image = world.text.combo[item[rows]], world.image.combo[item[rows]]
        from_text[rows] = (
            world.users.bias[user[rows]]
            + world.text.item_effect[text]
            + np.sum(preference * world.text.preference[text], 1)
            + world.clusters[world.phase(when[rows]), text // _PER_CLUSTER]
        )
        from_image[rows] = (
            world.image.item_effect[image]
            + np.sum(preference * world.image.preference[image], 1)
            + world.looks[user[rows], image // _PER_LOOK]
        )
        unobserved[rows] = world.unobserved[item[rows]]
    base = intercept(from_text + from_image + unobserved, BASE_RATE)
    p_click = sigmoid(base + from_text + from_image + unobserved)
    if world.content_quality < 1:
        return p_click, _given_misleading_content(world, base, user, item, when, has_image)

    spread = world.unobserved.std()
    content = np.empty(len(user))
    for rows in _slices(len(user)):
        content[rows] = smoothed_sigmoid((base + from_text + from_image)[rows], spread)
    unseen = np.flatnonzero(~has_image[item])
    for chosen in np.array_split(unseen, len(unseen) // _SMALL_CHUNK + 1):
        any_image = _of_any_image(world, user[chosen], when[chosen])
        content[chosen] = smoothed_sigmoid(base + from_text[chosen, None] + any_image, spread).mean(1)
    return p_click, content


def _given_misleading_content(
    world: World, base: float, user: Ints, item: Ints, when: Floats, has_image: NDArray[np.bool_]
) -> Floats:
    """Expected click probabilities [n] if the traits that content shows are the item's only with some probability."""
    content = np.empty(len(user))
    any_level = np.full(len(world.image.posterior), 1 / len(world.image.posterior))
    for rows in _slices(len(user), _SMALL_CHUNK):
        shown, who, time = item[rows], user[rows], when[rows]
        image = np.where(has_image[shown, None], world.image.posterior[world.image.shown[shown]], any_level)
        text = world.text.posterior[world.text.shown[shown]]
        parts = [(_of_any_image(world, who, time), image), (_of_any_text(world, who, time), text)]
        content[rows] = mixture_sigmoid(base + world.users.bias[who], parts, float(world.unobserved.std()))
    return content


def _of_any_image(world: World, user: Ints, when: Floats) -> Floats:
    """Contribution to the log-odds [n, C] of every combination of image traits."""
    common = world.users.preferences(user, when) @ world.image.preference.T + world.image.item_effect
    return common + np.repeat(world.looks[user], _PER_LOOK, axis=1)


def _of_any_text(world: World, user: Ints, when: Floats) -> Floats:
    """Contribution to the log-odds [n, C] of every combination of text traits."""
    common = world.users.preferences(user, when) @ world.text.preference.T + world.text.item_effect
    return common + np.repeat(world.clusters[world.phase(when)], _PER_CLUSTER, axis=1)


def _slices(count: int, size: int = _CHUNK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
