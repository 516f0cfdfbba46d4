import copy
from typing import Any

import pytest

from coldstart.evaluation.report.text import report_text
from tests.evaluation.diagnosed import DIAGNOSTICS, interval


@pytest.fixture
def summary() -> dict[str, Any]:
    shares = {
        "fine": {"item_effect": 0.06, "personalization": 0.04, "share": 0.6},
        "content_oracle": {"item_effect": 0.1, "personalization": 0.1, "share": 0.5},
    }
    return {
        "confidence": 0.95,
        "headline": "fine",
        "upper_bound": "content_oracle",
        "item_effect_share": shares,
        "diagnostics": copy.deepcopy(DIAGNOSTICS),
    }


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def test_each_paragraph_has_its_numbers(summary: dict[str, Any]) -> None:
    texts = {name: _plain(text) for name, text in report_text(summary).items()}
    assert list(texts) == ["origin", "id_space", "attention", "gains", "modalities"]
    assert (
        "The variant fine reaches 60 % of its item effect (+0.060 of +0.100) and 40 % of its personalization"
        in (texts["origin"])
    )
    assert "Content explains 40 % of the variance of ID rows (95 % interval 38 % to 42 %)" in texts["id_space"]
    assert "on 100 mature items that no training of the method has seen" in texts["id_space"]
    assert "31 % of its variance is item effect" in texts["id_space"]
    assert "For 12 % of the items, their own row is among the ten" in texts["id_space"]
    assert "for 2.0 % it is the nearest (chance: 1.0 % and 0.10 %)" in texts["id_space"]
    assert texts["id_space"].endswith("So content predicts the item effect better than the personalization.")
    assert "moves 30.0 % of a cold item's attention to other parts" in texts["attention"]
    assert "70 % of the 600 cold items" in texts["gains"]
    assert "log loss changes by -0.0120" in texts["gains"]
    assert "keep 50 % with the image only and 80 % with the text only" in texts["modalities"]
    assert "Only the image alone is measurably worse" in texts["modalities"]


def test_nothing_uncertain_is_claimed(summary: dict[str, Any]) -> None:
    diagnostics = summary["diagnostics"]
    diagnostics["id_space"] |= {"r2": interval(0.01), "r2_item_effect": interval(0.0), "held_out": False}
    diagnostics["modalities"]["inputs"]["both"]["gain"] = interval(0.01)
    diagnostics["attention"]["cold"]["fine"]["total_variation"] = 0.001
    diagnostics["attention"]["mature"]["id"]["total_variation"] = 0.001
    summary["item_effect_share"]["content_oracle"]["share"] = None
    texts = {name: _plain(text) for name, text in report_text(summary).items()}
    assert "origin" not in texts
    assert texts["id_space"].startswith("Content explains no measurable part")
    assert "new items score lower" in texts["id_space"]
    assert "no measurable difference" in texts["modalities"]
    assert "does not distinguish items" in texts["attention"]


def test_parts_that_were_not_measured_are_left_out(summary: dict[str, Any]) -> None:
    summary["diagnostics"] |= {"id_space": None, "attention": {}, "modalities": None}
    assert set(report_text(summary)) == {"origin", "gains"}
    summary["diagnostics"] = None
    assert set(report_text(summary)) == {"origin"}
