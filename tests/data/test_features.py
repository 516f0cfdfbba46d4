import numpy as np
import pyarrow as pa
import pytest

from coldstart.config import UserError
from coldstart.data.features import Categorical, FeatureColumn, FeatureSchema, Numeric, TargetFeatures, of_candidates


def column(name: str, kind: str = "categorical", owner: str = "item") -> FeatureColumn:
    return FeatureColumn(owner=owner, name=name, kind=kind)


def learnt(kind: str, values: list[object]) -> Categorical | Numeric:
    return column("x", kind).learn(column("x", kind).typed(pa.table({"x": values})))


SCHEMA = FeatureSchema(
    categorical=(
        Categorical(owner="item", name="brand", values=("a", "b")),
        Categorical(owner="user", name="country", values=("7", "true")),
        Categorical(owner="context", name="device", values=("phone",)),
    ),
    numeric=(
        Numeric(owner="item", name="price", mean=10, scale=2),
        Numeric(owner="context", name="hour", mean=0, scale=1),
    ),
)


def test_codes_are_those_of_train_and_0_for_everything_else():
    feature = learnt("categorical", ["b", " a ", None, "b", ""])
    assert feature.values == ("a", "b")
    assert feature.cardinality == 3
    assert feature.code(pa.array(["b", "a", "new", None, " b "])).tolist() == [2, 1, 0, 0, 2]


@pytest.mark.parametrize(
    ("stored", "asked"),
    [([3, 5, 3], [5]), ([3.0, None, 5.0], [5]), ([True, False, True], [True]), (["5", "3"], ["5"])],
)
def test_a_value_has_one_code_however_it_is_written(stored, asked):
    feature = learnt("categorical", stored)
    assert feature.cardinality == 3
    assert feature.code(pa.array(asked))[0] == 2


def test_numbers_are_standardised_on_train_and_what_is_no_number_is_the_mean():
    feature = learnt("numeric", [1.0, 3.0, float("nan"), None, float("inf"), 5.0])
    assert (feature.mean, feature.scale) == (3.0, pytest.approx(np.std([1, 3, 5])))
    asked = pa.array([5.0, float("nan"), None, float("-inf"), 1e12])
    assert feature.standardise(asked) == pytest.approx([2 / feature.scale, 0, 0, 0, 8])
    assert learnt("numeric", ["1", "x", "3"]).mean == 2
    assert learnt("numeric", [4.0, 4.0]).standardise(pa.array([4.0, 5.0])).tolist() == [0, 1]


def test_order_of_arrival_does_not_change_what_is_learnt():
    values = np.random.default_rng(0).lognormal(0, 5, 999)
    assert learnt("numeric", values.tolist()) == learnt("numeric", values[::-1].tolist())
    assert learnt("categorical", ["a", "b"]) == learnt("categorical", ["b", "a", "b"])


@pytest.mark.parametrize(("kind", "values"), [("numeric", ["a", None]), ("categorical", ["", None])])
def test_a_feature_without_a_value_in_train_is_refused(kind, values):
    with pytest.raises(UserError, match=rf"item_features: 'x' has no {kind} value in the train part.*feature_kinds"):
        learnt(kind, pa.array(values, pa.string()))


def test_a_schema_survives_json():
    assert FeatureSchema.model_validate_json(SCHEMA.model_dump_json()) == SCHEMA
    assert SCHEMA.cardinalities == (3, 3, 2)
    assert SCHEMA
    assert not FeatureSchema()


def test_a_request_is_encoded_as_the_dataset_is():
    item = SCHEMA.of("item").stack({"item.brand": np.array([0, 2, 1]), "item.price": np.array([0.0, 1, 2])}, 3)
    user = SCHEMA.read("user", {"country": True})
    context = SCHEMA.read("context", {"device": "phone", "hour": 3})
    offline = TargetFeatures(SCHEMA, item, user, context).at(np.zeros(3, int), np.arange(3), np.zeros(3, int))
    served = of_candidates(SCHEMA, item, user, context)
    assert served.categorical.tolist() == offline.categorical.tolist() == [[0, 2, 1], [2, 2, 1], [1, 2, 1]]
    assert served.numeric.tolist() == offline.numeric.tolist() == [[0, 3], [1, 3], [2, 3]]
    assert SCHEMA.read("user", {"country": 7}).categorical.tolist() == [[1]]
    assert SCHEMA.read("user", {}).categorical.tolist() == SCHEMA.of("user").unknown(1).categorical.tolist()


@pytest.mark.parametrize(
    ("owner", "given", "told"),
    [
        ("context", {"devise": "phone"}, "'devise' is no context feature of this ranker; allowed: device, hour"),
        ("user", {"brand": "a"}, "'brand' is no user feature of this ranker; allowed: country"),
        ("context", {"hour": "noon"}, "the context feature 'hour' is a number, not 'noon'"),
    ],
)
def test_what_a_request_may_not_say_is_named(owner, given, told):
    with pytest.raises(UserError, match=told):
        SCHEMA.read(owner, given)
