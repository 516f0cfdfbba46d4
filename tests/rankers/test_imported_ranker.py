import pytest
import torch
from safetensors.torch import save_file

from coldstart.config import UserError
from coldstart.config.import_allowlist import ALLOWED_IMPORT, allow_import
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.features import NO_FEATURES
from coldstart.rankers import load_ranker, save_ranker
from coldstart.rankers.imported_ranker import load_imported_ranker
from tests.rankers.own_ranker import Dot

INDEX = {"a": 1, "b": 2, "c": 3}
OWN = "tests.rankers.own_ranker"


@pytest.fixture(autouse=True)
def no_allowed_import(monkeypatch):
    monkeypatch.delenv(ALLOWED_IMPORT, raising=False)


def settings(name="Dot"):
    return RankerSettings(kind=f"{OWN}:{name}", embedding_dim=8)


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
    allow_import(settings(name).kind)
    return load_imported_ranker(settings(name), path, INDEX, NO_FEATURES, **options)


def test_weights_ordered_by_item_index_are_loaded_unchanged(tmp_path, trained):
    loaded = read(weights(tmp_path, trained))
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in trained.state_dict().items())
    assert not loaded.training


def test_weights_in_another_order_are_sorted_by_item_ids(tmp_path, trained):
    loaded = read(weights(tmp_path, trained), item_ids=["c", "elsewhere", "a"])
    rows = trained.id_rows()
    assert torch.equal(loaded.id_rows()[[1, 2, 3]], rows[[3, 0, 1]])
    assert loaded.trained.tolist() == [False, False, False, True]


def test_a_saved_custom_ranker_loads_only_if_its_class_is_allowed(tmp_path, trained, monkeypatch):
    save_ranker(trained, tmp_path, list(INDEX))
    with pytest.raises(UserError, match=rf"imported only if you name it.*ranker\.kind={OWN}:Dot"):
        load_ranker(tmp_path)
    allow_import("some.other:Class")
    with pytest.raises(UserError, match="imported only if you name it"):
        load_ranker(tmp_path)
    allow_import(f"{OWN}:Dot")
    assert torch.equal(load_ranker(tmp_path).id_rows(), trained.id_rows())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Nowhere", f"module {OWN} has no 'Nowhere'"),
        ("NOT_A_MODULE", "not a torch.nn.Module class"),
        ("NoArguments", r"cannot be created.*\(vocab_size: int, settings"),
        ("NoSlot", r"no item slot: forward\(batch, slots\)"),
        ("SlotIgnored", "item slot is not used"),
    ],
)
def test_a_class_that_does_not_meet_the_interface_is_refused(tmp_path, trained, name, words):
    with pytest.raises(UserError, match=words):
        read(weights(tmp_path, trained), name)


def test_a_missing_module_is_named(tmp_path, trained):
    allow_import("no_such_module:Dot")
    with pytest.raises(UserError, match="no module 'no_such_module'"):
        load_imported_ranker(RankerSettings(kind="no_such_module:Dot"), weights(tmp_path, trained), INDEX, NO_FEATURES)


def test_weights_that_do_not_match_are_listed_by_name_and_shape(tmp_path, trained):
    state = trained.state_dict() | {"item_bias.weight": torch.zeros(1, 9), "extra": torch.zeros(2)}
    del state["item_bias.bias"]
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "item_bias.bias [1] is missing" in message
    assert "extra [2] is unknown to the class" in message
    assert "item_bias.weight has shape [1, 9]; the class has [1, 8]" in message
    with pytest.raises(UserError, match=r"names 2 items.*must have 3 rows.*\[4, 8\]"):
        read(weights(tmp_path, trained), item_ids=["a", "b"])
    with pytest.raises(UserError, match="duplicate item ids: a"):
        read(weights(tmp_path, trained), item_ids=["a", "b", "a"])
    (tmp_path / "other.pt").write_bytes(b"pickle")
    with pytest.raises(UserError, match="not a safetensors file"):
        read(tmp_path / "other.pt")


def test_nan_rows_are_counted(tmp_path, trained):
    trained.id_table.weight.data[2, 3] = torch.nan
    with pytest.raises(UserError, match="1 of its ID rows contain NaN"):
        read(weights(tmp_path, trained))
