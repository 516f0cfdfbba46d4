import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import log_loss

from coldstart.config.recipe import Generated
from coldstart.data.synthetic import generate
from coldstart.data.synthetic_images import IMAGE_TRAITS, SETTINGS, TEXT_TRAITS, TONES, TOPICS, draw_images, write_texts
from coldstart.metrics.clicks import gauc

SMALL = Generated(items=500, users=200, events=20_000, weeks=4, image_size=24, missing_image=0.2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source")
    generate(SMALL, 5, out)
    return out


@pytest.fixture(scope="module")
def items(source: Path) -> pd.DataFrame:
    return pd.read_parquet(source / "items.parquet")


@pytest.fixture(scope="module")
def events(source: Path) -> pd.DataFrame:
    return pd.read_parquet(source / "events.parquet")


def _log_odds(probability: pd.Series) -> pd.Series:
    return np.log(probability / (1 - probability))


def test_variance_shares_match_the_settings(source: Path) -> None:
    truth = json.loads((source / "truth.json").read_text())
    shares = truth["variance_shares"]
    assert shares["personalization_image"] == pytest.approx(0.25, abs=0.02)
    assert shares["personalization_text"] == pytest.approx(shares["personalization_image"])
    assert shares["item_effect_image"] == pytest.approx(0.125, abs=0.01)
    assert shares["item_effect_text"] == pytest.approx(shares["item_effect_image"])
    assert shares["unobserved"] == pytest.approx(0.25, abs=0.02)
    assert 0.3 < truth["base_rate"] < 0.4


def test_log_odds_between_items_have_the_requested_spread(events: pd.DataFrame) -> None:
    # Measured on the events alone: the spread of log-odds between the items of one user.
    spread = _log_odds(events.p_click).groupby(events.user_id).std()
    assert float(spread.mean()) == pytest.approx(SMALL.logit_std, rel=0.12)


def test_labels_follow_p_click_and_content_predicts_them_less_well(events: pd.DataFrame) -> None:
    users = events.user_id.factorize()[0]
    label = events.label.to_numpy(bool)
    assert label.mean() == pytest.approx(events.p_click.mean(), abs=0.01)
    assert label.mean() == pytest.approx(events.p_click_content.mean(), abs=0.02)
    assert gauc(users, label, events.p_click_content.to_numpy()) + 0.02 < gauc(users, label, events.p_click.to_numpy())
    constant = np.full(len(label), label.mean())
    assert log_loss(label, events.p_click) < log_loss(label, events.p_click_content) < log_loss(label, constant)


def test_without_an_image_content_predicts_less_but_without_bias(items: pd.DataFrame, events: pd.DataFrame) -> None:
    assert items.image.isna().mean() == pytest.approx(SMALL.missing_image, abs=0.06)
    without_image = events.item_id.isin(items.item_id[items.image.isna()])
    scores = _log_odds(events.p_click_content)
    assert scores[without_image].std() < 0.85 * scores[~without_image].std()
    # The image traits are averaged out, so their part is missing as noise, not as bias.
    assert (events.p_click - events.p_click_content)[without_image].mean() == pytest.approx(0, abs=0.06)


def test_events_are_impressions_of_published_items_in_order(items: pd.DataFrame, events: pd.DataFrame) -> None:
    assert len(events) > 0.95 * SMALL.events
    assert events.timestamp.is_monotonic_increasing
    assert not events.duplicated(["user_id", "item_id"]).any()
    created = events.item_id.map(items.set_index("item_id").created_at)
    assert (created <= events.timestamp).all()
    evening = pd.to_datetime(events.timestamp, unit="s").dt.hour.between(17, 23).mean()
    assert evening > 7 / 24 + 0.1
    activity = events.user_id.value_counts()
    assert activity.quantile(0.98) > 2 * activity.median()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    tiny = Generated(items=40, users=20, events=500, weeks=1, image_size=16)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tiny, seed, tmp_path / name)
    for file in ("items.parquet", "events.parquet", "truth.json"):
        first, same, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == same
        assert first != other


def test_a_single_item_and_user_work(tmp_path: Path) -> None:
    generate(Generated(items=1, users=1, events=3, weeks=1, image_size=16), 0, tmp_path)
    assert len(pd.read_parquet(tmp_path / "events.parquet")) == 1


@pytest.fixture(scope="module")
def drawn() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Trait levels of 800 items and simple features of their images: coarse colors and the spectrum."""
    rng = np.random.default_rng(0)
    levels = {name: rng.integers(0, n, 800) for name, n in (IMAGE_TRAITS | TEXT_TRAITS).items()}
    images = [Image.open(io.BytesIO(data)) for data in draw_images(levels, 64, rng)]
    assert {image.size for image in images} == {(64, 64)}
    color = np.stack([np.asarray(image.resize((16, 16))) for image in images]) / 255
    grey = np.stack([np.asarray(image.convert("L").resize((32, 32))) for image in images]) / 255
    spectrum = np.abs(np.fft.rfft2(grey - grey.mean((1, 2), keepdims=True)))
    return levels, np.concatenate([color.reshape(800, -1), spectrum.reshape(800, -1)], 1)


@pytest.mark.parametrize("trait", ["hue", "shape", "pattern", "setting"])
def test_images_show_their_traits(trait: str, drawn: tuple[dict[str, np.ndarray], np.ndarray]) -> None:
    levels, features = drawn
    train, test = slice(600), slice(600, None)
    reader = RidgeClassifier(30.0).fit(features[train], levels[trait][train])
    # Even a linear model, far weaker than any network, is much better than chance.
    assert reader.score(features[test], levels[trait][test]) > 2.2 / (IMAGE_TRAITS | TEXT_TRAITS)[trait]


def test_texts_name_their_traits() -> None:
    rng = np.random.default_rng(0)
    levels = {name: rng.integers(0, n, 300) for name, n in TEXT_TRAITS.items()}
    has_text = rng.random(300) < 0.5
    titles, texts = write_texts(levels, has_text, rng)
    for lexicon, trait in ((TOPICS, "topic"), (TONES, "tone"), (SETTINGS, "setting")):
        options = [set(words) for words in lexicon.values()]
        assert not set.intersection(*map(set, options))
        for item, (title, text) in enumerate(zip(titles, texts, strict=True)):
            named = text if trait == "setting" and text is not None else title
            words = set(named.lower().replace(",", " ").replace(":", " ").replace(".", " ").split())
            assert [level for level, own in enumerate(options) if own & words] == [levels[trait][item]]
    assert [text is not None for text in texts] == has_text.tolist()
