import pytest

from coldstart.config import Recipe
from coldstart.methods.available import METHODS


def recipe(**sections) -> Recipe:
    method = {"name": "baselines", **sections.pop("method", {})}
    return Recipe.model_validate({"name": "any", "method": method, **sections})


def test_text_similarity_needs_no_stage_with_an_mllm():
    stages = METHODS["baselines"].stages(recipe())
    assert [stage.name for stage in stages] == ["fit_encoder", "embed_items", "fit_baseline"]
    assert stages[0].inputs == ("dataset",)


def test_the_aligned_encoder_is_kept_when_the_method_of_a_run_changes():
    """The stage differs from IDProxy's in what runs it only, so that its inputs have the same digest."""
    ridge, proxies = (
        METHODS[made.method.name].stages(made)[0]
        for made in (recipe(method={"use": "ridge_map"}), recipe(method={"name": "idproxy"}))
    )
    for name in ("name", "output", "sections", "inputs"):
        assert getattr(ridge, name) == getattr(proxies, name)
    both = METHODS["baselines"].stages(recipe(method={"use": "item_effect_similarity"}))[0]
    assert both.sections == (*ridge.sections, "method.use")


def test_an_id_table_alone_gets_an_encoder_but_no_baseline():
    ranker = {"pretrained": {"id_table": "rows.npy"}}
    stages = METHODS["baselines"].stages(recipe(ranker=ranker))
    assert [stage.name for stage in stages] == ["fit_encoder", "embed_items"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"content": {"use_text": False}}, "method.name baselines reads the text of items, but content.use_text is"),
        ({"method": {"use": "oov", "penalty": 3}}, "method.penalty 3 has no effect on oov, only on text_similarity"),
        (
            {"method": {"use": "ridge_map", "coarse": {"batch": 7}}, "cluster": {"workers": 2}},
            r"method.coarse.batch 7 is not divisible by cluster.workers 2",
        ),
        ({"method": {"use": "fine"}}, "Input should be 'oov', 'mean_row'"),
    ],
)
def test_settings_that_cannot_work_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        recipe(**sections)


def test_only_a_baseline_that_reads_text_needs_it():
    recipe(content={"use_text": False}, method={"use": "content_similarity"})
    recipe(method={"use": "text_similarity", "coarse": {"batch": 7}}, cluster={"workers": 2})


@pytest.mark.parametrize(
    ("method", "point"),
    [
        ({"use": "ridge_map"}, {"penalty": 100.0}),
        ({"use": "mlp_map", "penalty": 0.1}, {"penalty": 0.1}),
        ({"use": "coarse", "length": 0.5}, {"length": 0.5}),
        ({"use": "item_effect"}, {}),
    ],
)
def test_settings_are_a_point_of_the_grid(method, point):
    assert recipe(method=method).method.point == point
