import numpy as np

from coldstart.evaluation.protocol.summary import Summary
from coldstart.evaluation.report.plots import (
    gain_bars,
    geometry,
    inline_svg,
    reliability_curves,
    score_histograms,
    training_curves,
    warm_up_curves,
)
from coldstart.metrics.clicks import reliability, sigmoid
from tests.evaluation.rows import scored_rows, summary_of


def test_a_bar_per_variant_and_slice(summary: Summary) -> None:
    figure = gain_bars(summary, ("cold", "warm"))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["cold", "warm"]
    assert {len(axis.patches) for axis in figure.axes} == {len(summary["delta_vs_oov"])}


def test_an_undefined_slice_is_marked_in_the_chart() -> None:
    logits = {"oov": np.zeros(2), "fine": np.ones(2)}
    found = summary_of(scored_rows(np.array([0, 0]), np.array([0, 1]), np.array([5, 5]), logits))
    assert "not defined" in inline_svg(gain_bars(found, ("warm",)), "gain")


def test_inline_drawings_take_page_colors_and_have_unique_ids(summary: Summary) -> None:
    first, second = (inline_svg(gain_bars(summary, ("cold",)), name) for name in ("a", "b"))
    assert first.startswith("<svg")
    assert "var(--ink)" in first
    assert "#20262e" not in first
    assert 'id="a-' in first
    assert first.replace('"a-', '"b-').replace("#a-", "#b-") == second


def test_the_reliability_legend_has_the_error_of_each_curve() -> None:
    rng = np.random.default_rng(0)
    p = sigmoid(rng.normal(size=500))
    figure = reliability_curves({"fine": reliability(rng.uniform(size=500) < p, p, bins=5)})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == 1
    assert labels[0].startswith("fine (error 0.0")


def test_geometry_can_be_drawn_without_data() -> None:
    none = np.zeros(0)
    figure = geometry({"id (mature)": none}, {"own ID row": none, "another's": none})
    assert len(figure.axes) == 2


def test_each_training_metric_has_a_panel() -> None:
    lines = [{"time": 1.0, "done": i, "total": 3, "loss": 1.0 / (i + 1), "stage": "x"} for i in range(3)]
    figure = training_curves({"align_fine": [*lines, {"time": 2.0, "done": 3, "total": 3, "gauc": 0.6}]})
    assert figure is not None
    assert [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()] == ["align_fine: loss"]
    assert training_curves({"prepare": [{"time": 1.0, "done": 1, "total": 1}]}) is None


def test_the_warm_up_curve_has_a_gap_where_it_is_undefined() -> None:
    points = [{"value": 0.6, "low": 0.5, "high": 0.7}, None, {"value": 0.7, "low": 0.6, "high": 0.8}]
    axis = warm_up_curves({"edges": [0, 1, 10], "rows": [5, 0, 1200], "gauc_item": {"fine": points}}).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [0.6, np.nan, 0.7])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0\n5 rows", "1-9\n0 rows", "10+\n1,200 rows"]


def test_score_histograms_show_shares_of_clicked_and_of_skipped_rows() -> None:
    counts = {"fine": {"cold": {"clicked": [1, 3], "skipped": [0, 0]}}}
    (axis,) = score_histograms({"edges": [0, 0.5, 1], "counts": counts}, ["fine"], "cold").axes
    heights = {patch.get_label(): patch.get_data().values.tolist() for patch in axis.patches}
    assert heights["clicked"] == [0.25, 0.75]
    assert heights["skipped"] == [0, 0]
