from pathlib import Path

import pytest

from coldstart.config import UserError
from coldstart.config.yaml_file import read_yaml


def written(path: Path, data: bytes) -> Path:
    file = path / "mine.yaml"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name: a\ndata: {source: files}\nseed: 3\ndata: {}\n", r"line 4, .*'data' is there twice, in lines 2 and 4"),
        (b"name: a\ndata:\n  files:\n    items: x\n    items: y\n", r"'items' is there twice, in lines 4 and 5"),
        (b"name: a\nfine: {epochs: 1, epochs: 2}\n", r"'epochs' is there twice, in lines 2 and 2"),
        (b"name: a\n'name': b\n", r"'name' is there twice, in lines 1 and 2"),
        ("name: caf\u00e9\n".encode("latin-1"), r"mine.yaml is not UTF-8: byte 0xe9 at offset 9 \(line 1\).*Latin-1"),
        (
            "name: a\nseed: 3\n".encode("utf-16"),
            r"not UTF-8: byte 0xff at offset 0 \(line 1\).*UTF-16: save it as UTF-8",
        ),
        (b"name: a\ndata:\n\tsource: files\n", r"line 3, column 1: not valid YAML: .*indent with spaces"),
        (b"name: a\n---\nname: b\n", r"line 2, column 1: not valid YAML: but found another document"),
        (b"name: [a\n", r"line 2, column 1: not valid YAML"),
        (b"name: *other\n", r"line 1, column 7: not valid YAML: found undefined alias 'other'"),
        (
            b"name: !!python/object:os.system a\n",
            r"line 1, column 7: not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_yaml(written(tmp_path, data))


def test_a_byte_order_mark_anchors_and_merged_keys_are_fine(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfbase: &base {epochs: 1, patience: 2}\nfine:\n  <<: *base\n  epochs: 3\ncoarse: *base\n"
    assert read_yaml(written(tmp_path, data)) == {
        "base": {"epochs": 1, "patience": 2},
        "fine": {"epochs": 3, "patience": 2},
        "coarse": {"epochs": 1, "patience": 2},
    }


def test_equal_keys_in_different_mappings_are_fine(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, b"a: {x: 1}\nb: {x: 2}\n")) == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_directory_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
