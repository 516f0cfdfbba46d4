"""The synthetic catalog: a simulated content platform with known click probabilities.

Every click is drawn from a true probability `p_click`. `p_click_content` is its expectation given the user and the
item's content: the best possible prediction from content. The gap between the two is the unobserved item effect, which
no content model can close.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.config.recipe import Generated
from coldstart.data.synthetic_images import IMAGE_TRAITS, TEXT_TRAITS, Levels, draw_images, write_texts
from coldstart.data.synthetic_traffic import DAY, draw_impressions
from coldstart.data.synthetic_world import click_probabilities, make_world

REVISION = 3
"""Increased whenever the same settings and seed give other rows."""

_START = 1_735_689_600  # 2025-01-01 00:00 UTC


def generate(settings: Generated, seed: int, out: Path) -> int:
    """Writes `items.parquet`, `events.parquet` and `truth.json` into `out`.

    Args:
        settings: Size and composition of the platform.
        seed: The same settings and seed give the same bytes.
        out: Directory; created if missing.

    Returns:
        Number of events.
    """
    out.mkdir(parents=True, exist_ok=True)
    traits, drawing, wording, world_rng, traffic, clicks, misleading = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(7)
    )
    span = settings.weeks * 7 * DAY
    created = np.sort(traits.integers(0, span, settings.items))
    levels = {name: traits.integers(0, n, settings.items) for name, n in (IMAGE_TRAITS | TEXT_TRAITS).items()}
    has_image = traits.random(settings.items) >= settings.missing_image
    has_text = traits.random(settings.items) >= settings.missing_text
    # Permuted, so that an id does not reveal the time of publication.
    item_ids = np.array([f"i{number:07d}" for number in traits.permutation(settings.items)])

    shown = _shown_levels(levels, settings.content_quality, misleading)
    titles, texts = write_texts(shown, has_text, wording)
    drawn = draw_images(shown, settings.image_size, drawing)
    images = [image if visible else None for image, visible in zip(drawn, has_image, strict=True)]
    table = {"item_id": item_ids, "title": titles, "text": texts, "image": pa.array(images, pa.large_binary())}
    pq.write_table(pa.table(table | {"created_at": _START + created}), out / "items.parquet", row_group_size=512)

    world = make_world(settings, levels, shown, world_rng)
    when, user, item = draw_impressions(settings, created, traffic)
    p_click, p_content = click_probabilities(world, user, item, when / span, has_image)
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
    if settings.drift_at is not None:
        truth["drift_at"] = _START + settings.drift_at * span
    (out / "truth.json").write_text(json.dumps(truth, indent=2))
    return len(label)


def _shown_levels(levels: Levels, quality: float, rng: np.random.Generator) -> Levels:
    """Trait levels that content shows: an item's own with probability `quality`, otherwise random ones."""
    shown = {}
    for name, count in (IMAGE_TRAITS | TEXT_TRAITS).items():
        own = levels[name]
        shown[name] = np.where(rng.random(len(own)) < quality, own, rng.integers(0, count, len(own)))
    return shown
