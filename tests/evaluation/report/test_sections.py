import io

import numpy as np
import torch
from PIL import Image

from coldstart.data.content import Content
from coldstart.evaluation.diagnostics.neighbors import NeighborSpace
from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.report.sections import Geometry, draw_charts, item_neighbors
from tests.evaluation.diagnosed import DIAGNOSTICS


def _geometry() -> Geometry:
    tables = {name: torch.randn(21, 6, generator=torch.Generator().manual_seed(1)) for name in ("id", "fine", "coarse")}
    return Geometry(tables, ("fine", "coarse"), np.arange(1, 15), np.arange(15, 19))


def test_every_chart_is_drawn_and_described(summary: Summary) -> None:
    metrics_log = [{"time": 1.0, "done": n, "total": 2, "loss": 0.5} for n in range(2)]
    charts = draw_charts(summary, _geometry(), {"align_fine": metrics_log})
    assert [chart.name for chart in charts] == ["gain", "warm-up", "reliability", "scores", "geometry", "training"]
    assert f"fine {summary['delta_item_vs_oov']['fine']['cold']['gauc']:+.3f}" in charts[0].alt
    assert all(chart.caption and chart.alt for chart in charts)


def test_the_id_space_chart_is_drawn_if_it_was_analyzed(summary: Summary) -> None:
    charts = draw_charts({**summary, "diagnostics": DIAGNOSTICS}, _geometry(), {})
    chart = charts[-1]
    assert chart.name == "id-space"
    assert "0.50 of 0.60, -0.10 of 0.40" in chart.alt
    assert [text.get_text() for text in chart.figure.axes[0].texts] == ["50 %", "none"]


def test_cold_items_are_shown_with_the_mature_items_nearest_to_their_proxies() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    vectors = torch.randn(21, 6, generator=torch.Generator().manual_seed(1))
    vectors[15] = vectors[3] * 2
    space = NeighborSpace(vectors, np.arange(1, 15), np.arange(15, 19))

    def contents(items: np.ndarray) -> list[Content]:
        return [Content(title=f"item {item}", image=buffer.getvalue()) for item in items]

    found = item_neighbors(space, contents, lambda data: Image.open(io.BytesIO(data)), seed=0)
    assert sorted(around.cold.title for around in found) == ["item 15", "item 16", "item 17", "item 18"]
    item = next(around for around in found if around.cold.title == "item 15")
    assert item.nearest[0].title == "item 3"
    assert item.nearest[0].cosine is not None
    assert item.nearest[0].cosine > 0.999
    assert item.cold.image is not None


def test_without_cold_items_no_neighbors_are_shown() -> None:
    space = NeighborSpace(torch.ones(4, 2), np.arange(1, 3), np.zeros(0, np.int64))
    assert item_neighbors(space, lambda items: [], lambda data: Image.new("RGB", (1, 1)), seed=0) == []


def test_a_method_that_fills_no_slot_has_no_chart_of_slots(summary: Summary) -> None:
    charts = draw_charts({**summary, "headline": "release", "item_effect_share": {}}, None, {})
    assert [chart.name for chart in charts] == ["gain", "warm-up", "reliability", "scores"]
    assert "of oov, release." in charts[3].alt
    assert "better than release" in charts[1].caption or "At no number of clicks" in charts[1].caption
