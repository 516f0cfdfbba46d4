"""A catalog that names its images becomes the same dataset as one that holds their bytes."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from coldstart.config import Recipe, UserError
from coldstart.data import image_files
from coldstart.data.dataset import Dataset
from coldstart.data.deep_check import check_all_rows
from coldstart.jobs.stages import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ITEMS = 30


def _png(row: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (row, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def _recipe(root: Path, name: str, items: str, **files: Any) -> Recipe:
    files = {"root": root, "items": items, "events": "events.csv", **files}
    return Recipe.model_validate(
        {"name": name, "paths": {"runs": root / "runs"}, "data": {"source": "files", "files": files}}
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """One image of thirty is missing; two are named in other ways than by a relative path."""
    (tmp_path / "images").mkdir()
    for row in range(ITEMS - 1):
        (tmp_path / "images" / f"{row} é.png").write_bytes(_png(row))
    named = pd.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(ITEMS)],
            "title": [f"Item {row}" for row in range(ITEMS)],
            "image": [f"{row} é.png" for row in range(ITEMS)],
        }
    )
    named.loc[1, "image"] = str(tmp_path / "images" / "1 é.png")
    named.loc[2, "image"] = (tmp_path / "images" / "2 é.png").as_uri()
    named.to_csv(tmp_path / "named.csv", index=False)
    named.assign(image=[*map(_png, range(ITEMS - 1)), None]).to_parquet(tmp_path / "bytes.parquet")
    events = [f"u{row % 7},i{row % ITEMS},{1000 + row},{row // 3 % 2}" for row in range(200)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "\n".join(events) + "\n")
    return tmp_path


def test_named_images_give_the_same_items_as_their_bytes(shop: Path) -> None:
    named = prepare.run(_recipe(shop, "named", "named.csv", images={"root": shop / "images"}))
    stored = prepare.run(_recipe(shop, "stored", "bytes.parquet"))
    rows = np.arange(1, ITEMS + 1)
    contents = Dataset(named).contents(rows)
    assert contents == Dataset(stored).contents(rows)
    assert sum(content.image is not None for content in contents) == ITEMS - 1
    assert Dataset(named).items().equals(Dataset(stored).items())
    reason = f"{image_files.MISSING}; the item is kept without its image"
    assert named.metadata["quarantined"]["items"] == {reason: 1}

    recipe = _recipe(shop, "named", "named.csv", images={"root": shop / "images"})
    assert check_all_rows(recipe.data).details["quarantined"]["items"] == {reason: 1}
    for name in ("3 é.png", "4 é.png"):
        (shop / "images" / name).unlink()
    for check in (lambda: check_all_rows(recipe.data), lambda: prepare.run(recipe)):
        with pytest.raises(UserError, match=rf"3 of 30 .* {image_files.MISSING}.*'3 é\.png'") as error:
            check()
        assert f"looked for under {shop / 'images'}; set data.files.images.root" in str(error.value)
    shutil.rmtree(shop / "images")
    with pytest.raises(UserError, match="none of the images that the first rows"):
        prepare.run(recipe)
