import io

import numpy as np
import torch
from PIL import Image

from coldstart.data.content import Content
from coldstart.evaluation.exhibits import Geometry, draw_charts, neighbourhoods
from coldstart.evaluation.summary import Summary
from tests.evaluation.diagnosed import DIAGNOSIS


def _geometry(cold: int = 4) -> Geometry:
    tables = {name: torch.randn(21, 6, generator=torch.Generator().manual_seed(1)) for name in ("id", "fine", "coarse")}
    return Geometry(tables, np.arange(1, 15), np.arange(15, 15 + cold))


def test_every_chart_is_drawn_and_described(summary: Summary) -> None:
    journal = [{"time": 1.0, "done": n, "total": 2, "loss": 0.5} for n in range(2)]
    charts = draw_charts(summary, _geometry(), {"align_fine": journal})
    assert [chart.name for chart in charts] == ["gain", "warm-up", "reliability", "scores", "geometry", "training"]
    assert f"fine {summary['delta_item_vs_oov']['fine']['cold']['gauc']:+.3f}" in charts[0].alt
    assert all(chart.caption and chart.alt for chart in charts)


def test_the_id_table_is_drawn_where_it_was_looked_at(summary: Summary) -> None:
    charts = draw_charts({**summary, "diagnosis": DIAGNOSIS}, _geometry(), {})
    chart = charts[-1]
    assert chart.name == "id-space"
    assert "0.50 of 0.60, -0.10 of 0.40" in chart.alt
    assert [text.get_text() for text in chart.figure.axes[0].texts] == ["50 %", "none"]


def test_cold_items_stand_beside_the_mature_items_whose_rows_they_share() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    geometry = _geometry()
    geometry.tables["fine"][15] = geometry.tables["id"][3] * 2

    def contents(items: np.ndarray) -> list[Content]:
        return [Content(title=f"item {item}", picture=buffer.getvalue()) for item in items]

    found = neighbourhoods(geometry, contents, lambda data: Image.open(io.BytesIO(data)), seed=0)
    assert sorted(around.cold.title for around in found) == ["item 15", "item 16", "item 17", "item 18"]
    mine = next(around for around in found if around.cold.title == "item 15")
    assert mine.nearest[0].title == "item 3"
    assert mine.nearest[0].cosine is not None
    assert mine.nearest[0].cosine > 0.999
    assert mine.cold.picture is not None


def test_without_cold_items_there_is_nothing_to_show() -> None:
    assert neighbourhoods(_geometry(cold=0), lambda items: [], lambda data: Image.new("RGB", (1, 1)), seed=0) == []
