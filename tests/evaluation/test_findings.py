import copy
from typing import Any

import pytest

from coldstart.evaluation.findings import findings
from tests.evaluation.diagnosed import DIAGNOSIS, interval


@pytest.fixture
def about() -> dict[str, Any]:
    shares = {
        "fine": {"appeal": 0.06, "taste": 0.04, "share": 0.6},
        "content_oracle": {"appeal": 0.1, "taste": 0.1, "share": 0.5},
    }
    return {
        "confidence": 0.95,
        "ceiling": "content_oracle",
        "appeal_share": shares,
        "diagnosis": copy.deepcopy(DIAGNOSIS),
    }


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def test_each_part_is_told_with_its_numbers(about: dict[str, Any]) -> None:
    told = {name: _plain(sentence) for name, sentence in findings(about).items()}
    assert list(told) == ["origin", "id_space", "adaptor", "gaze", "gains", "modalities"]
    assert "Fine proxies reach 60 % of its appeal (+0.060 of +0.100) and 40 % of its taste" in told["origin"]
    assert "Content explains 40 % of what ID rows differ by (95 % interval 38 % to 42 %)" in told["id_space"]
    assert "on 100 mature items that coarse alignment kept out" in told["id_space"]
    assert "31 % of its variance is appeal" in told["id_space"]
    assert (
        "12 % of the items find their own, 2.0 % as the very nearest (by chance 1.0 % and 0.10 %)" in told["id_space"]
    )
    assert told["id_space"].endswith("So it is appeal that content tells best here.")
    assert "50 % of what the layer states add through, by direction 30 % to 70 %;" in told["adaptor"]
    assert "weighs the two sources" in told["adaptor"]
    assert "50 % as long as mature ID rows" in told["adaptor"]
    assert "takes 30.0 % of a cold item's attention elsewhere" in told["gaze"]
    assert "70 % of the 600 cold items" in told["gains"]
    assert "log loss changes by -0.0120" in told["gains"]
    assert (
        "keep 50 % by the picture alone and 80 % by the words alone. Only the picture alone loses" in told["modalities"]
    )


def test_what_is_not_sure_is_not_claimed(about: dict[str, Any]) -> None:
    found = about["diagnosis"]
    found["id_space"] |= {"r2": interval(0.01), "r2_appeal": interval(0.0), "kept_out": False}
    found["modalities"]["readings"]["both"]["gain"] = interval(0.01)
    found["gaze"]["cold"]["fine"]["moved"] = found["gaze"]["mature"]["id"]["moved"] = 0.001
    about["appeal_share"]["content_oracle"]["share"] = None
    told = {name: _plain(sentence) for name, sentence in findings(about).items()}
    assert "origin" not in told
    assert told["id_space"].startswith("Content says nothing measurable")
    assert "new items are harder" in told["id_space"]
    assert "no measurable difference" in told["modalities"]
    assert "tells items apart elsewhere" in told["gaze"]


def test_parts_that_were_not_measured_are_left_out(about: dict[str, Any]) -> None:
    about["diagnosis"] |= {"id_space": None, "gaze": {}, "modalities": None}
    about["diagnosis"]["adaptor"]["gate"] = None
    assert set(findings(about)) == {"origin", "adaptor", "gains"}
    about["diagnosis"] = None
    assert set(findings(about)) == {"origin"}
