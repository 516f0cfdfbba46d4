import numpy as np
import pyarrow as pa
import pytest

from coldstart.config import UserError
from coldstart.data.features import (
    Categorical,
    FeatureColumn,
    FeatureSchema,
    Numeric,
    TargetFeatures,
    candidate_features,
)


def column(name: str, kind: str = "categorical", owner: str = "item") -> FeatureColumn:
    return FeatureColumn(owner=owner, name=name, kind=kind)


def fitted(kind: str, values: list[object]) -> Categorical | Numeric:
    return column("x", kind).fit(column("x", kind).typed(pa.table({"x": values})))


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


def test_values_outside_train_have_code_0():
    feature = fitted("categorical", ["b", " a ", None, "b", ""])
    assert feature.values == ("a", "b")
    assert feature.cardinality == 3
    assert feature.code(pa.array(["b", "a", "new", None, " b "])).tolist() == [2, 1, 0, 0, 2]


@pytest.mark.parametrize(
    ("stored", "query"),
    [([3, 5, 3], [5]), ([3.0, None, 5.0], [5]), ([True, False, True], [True]), (["5", "3"], ["5"])],
)
def test_a_value_has_the_same_code_in_every_type(stored, query):
    feature = fitted("categorical", stored)
    assert feature.cardinality == 3
    assert feature.code(pa.array(query))[0] == 2


def test_numbers_are_standardized_on_train_and_missing_ones_are_the_mean():
    feature = fitted("numeric", [1.0, 3.0, float("nan"), None, float("inf"), 5.0])
    assert (feature.mean, feature.scale) == (3.0, pytest.approx(np.std([1, 3, 5])))
    query = pa.array([5.0, float("nan"), None, float("-inf"), 1e12])
    assert feature.standardize(query) == pytest.approx([2 / feature.scale, 0, 0, 0, 8])
    assert fitted("numeric", ["1", "x", "3"]).mean == 2
    assert fitted("numeric", [4.0, 4.0]).standardize(pa.array([4.0, 5.0])).tolist() == [0, 1]


def test_the_order_of_values_does_not_change_the_fit():
    values = np.random.default_rng(0).lognormal(0, 5, 999)
    assert fitted("numeric", values.tolist()) == fitted("numeric", values[::-1].tolist())
    assert fitted("categorical", ["a", "b"]) == fitted("categorical", ["b", "a", "b"])


@pytest.mark.parametrize(("kind", "values"), [("numeric", ["a", None]), ("categorical", ["", None])])
def test_a_feature_without_a_value_in_train_is_refused(kind, values):
    with pytest.raises(UserError, match=rf"item_features: 'x' has no {kind} value in the train part.*feature_kinds"):
        fitted(kind, pa.array(values, pa.string()))


def test_a_schema_survives_json():
    assert FeatureSchema.model_validate_json(SCHEMA.model_dump_json()) == SCHEMA
    assert SCHEMA.cardinalities == (3, 3, 2)
    assert SCHEMA
    assert not FeatureSchema()


def test_a_request_is_encoded_as_the_dataset_is():
    item = SCHEMA.of("item").stack({"item.brand": np.array([0, 2, 1]), "item.price": np.array([0.0, 1, 2])}, 3)
    user = SCHEMA.encode_values("user", {"country": True})
    context = SCHEMA.encode_values("context", {"device": "phone", "hour": 3})
    offline = TargetFeatures(SCHEMA, item, user, context).lookup(np.zeros(3, int), np.arange(3), np.zeros(3, int))
    served = candidate_features(SCHEMA, item, user, context)
    assert served.categorical.tolist() == offline.categorical.tolist() == [[0, 2, 1], [2, 2, 1], [1, 2, 1]]
    assert served.numeric.tolist() == offline.numeric.tolist() == [[0, 3], [1, 3], [2, 3]]
    assert SCHEMA.encode_values("user", {"country": 7}).categorical.tolist() == [[1]]
    assert SCHEMA.encode_values("user", {}).categorical.tolist() == SCHEMA.of("user").unknown(1).categorical.tolist()


@pytest.mark.parametrize(
    ("owner", "values", "message"),
    [
        (
            "context",
            {"devise": "phone"},
            "'devise' is not a feature of the context in this ranker; allowed: device, hour",
        ),
        ("user", {"brand": "a"}, "'brand' is not a feature of the user in this ranker; allowed: country"),
        ("context", {"hour": "noon"}, "the context feature 'hour' must be a number, not 'noon'"),
    ],
)
def test_an_invalid_feature_of_a_request_is_named(owner, values, message):
    with pytest.raises(UserError, match=message):
        SCHEMA.encode_values(owner, values)
