import pytest
import torch
from safetensors.torch import save_file

from coldstart.config import UserError
from coldstart.config.permission import PERMITTED, permit
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.features import NO_FEATURES
from coldstart.rankers import load_ranker, save_ranker
from coldstart.rankers.given_ranker import read_ranker
from tests.rankers.own_ranker import Dot

INDEX = {"a": 1, "b": 2, "c": 3}
OWN = "tests.rankers.own_ranker"


@pytest.fixture(autouse=True)
def no_permission(monkeypatch):
    monkeypatch.delenv(PERMITTED, raising=False)


def settings(name="Dot"):
    return RankerSettings(kind=f"{OWN}:{name}", width=8)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    ranker = Dot(4, settings(), NO_FEATURES)
    torch.nn.init.normal_(ranker.id_table.weight)
    ranker.trained[1:3] = True
    return ranker.eval()


def weights(tmp_path, ranker, **other):
    path = tmp_path / "mine.safetensors"
    save_file({name: value.contiguous() for name, value in (ranker.state_dict() | other).items()}, path)
    return path


def read(path, name="Dot", **options):
    permit(settings(name).kind)
    return read_ranker(settings(name), path, INDEX, NO_FEATURES, **options)


def test_weights_by_item_index_are_taken_as_they_are(tmp_path, trained):
    got = read(weights(tmp_path, trained))
    assert all(torch.equal(got.state_dict()[name], value) for name, value in trained.state_dict().items())
    assert not got.training


def test_weights_in_an_order_of_their_own_are_laid_out_by_their_ids(tmp_path, trained):
    got = read(weights(tmp_path, trained), ids=["c", "elsewhere", "a"])
    rows = trained.id_rows()
    assert torch.equal(got.id_rows()[[1, 2, 3]], rows[[3, 0, 1]])
    assert got.trained.tolist() == [False, False, False, True]


def test_a_stored_ranker_is_loaded_only_where_its_class_is_named(tmp_path, trained, monkeypatch):
    save_ranker(trained, tmp_path, list(INDEX))
    with pytest.raises(UserError, match=rf"imported only where you name it.*ranker\.kind={OWN}:Dot"):
        load_ranker(tmp_path)
    permit("some.other:Class")
    with pytest.raises(UserError, match="imported only where you name it"):
        load_ranker(tmp_path)
    permit(f"{OWN}:Dot")
    assert torch.equal(load_ranker(tmp_path).id_rows(), trained.id_rows())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Nowhere", f"module {OWN} has no 'Nowhere'"),
        ("NOT_A_MODULE", "no torch.nn.Module class"),
        ("NoArguments", r"cannot be made.*\(vocabulary: int, settings"),
        ("NoSlot", r"no item slot: forward\(batch, slots\)"),
        ("SlotIgnored", "item slot is not used"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(tmp_path, trained, name, words):
    with pytest.raises(UserError, match=words):
        read(weights(tmp_path, trained), name)


def test_a_module_that_is_not_there_is_named(tmp_path, trained):
    permit("no_such_module:Dot")
    with pytest.raises(UserError, match="no module named 'no_such_module'"):
        read_ranker(RankerSettings(kind="no_such_module:Dot"), weights(tmp_path, trained), INDEX, NO_FEATURES)


def test_weights_that_do_not_fit_are_listed_by_name_and_shape(tmp_path, trained):
    state = trained.state_dict() | {"appeal.weight": torch.zeros(1, 9), "extra": torch.zeros(2)}
    del state["appeal.bias"]
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        read(path)
    told = str(caught.value)
    assert "appeal.bias [1] is missing" in told
    assert "extra [2] is unknown to the class" in told
    assert "appeal.weight has shape [1, 9]; the class has [1, 8]" in told
    with pytest.raises(UserError, match=r"names 2 items.*must have 3 rows.*\[4, 8\]"):
        read(weights(tmp_path, trained), ids=["a", "b"])
    with pytest.raises(UserError, match="more than once: a"):
        read(weights(tmp_path, trained), ids=["a", "b", "a"])
    (tmp_path / "other.pt").write_bytes(b"pickle")
    with pytest.raises(UserError, match="no safetensors file"):
        read(tmp_path / "other.pt")


def test_nan_rows_are_counted(tmp_path, trained):
    trained.id_table.weight.data[2, 3] = torch.nan
    with pytest.raises(UserError, match="1 of its ID rows hold NaN"):
        read(weights(tmp_path, trained))
