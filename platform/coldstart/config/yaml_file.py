"""Strict reading of a YAML file: UTF-8, one document, and no key twice in one mapping.

PyYAML keeps the last of several equal keys without a word, so a second section `data:` would replace the first.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode

from coldstart.config.errors import UserError

_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        UserError: the file cannot be read, is not UTF-8, is not valid YAML, has several documents, or has a key twice.
    """
    text = _decode(path)
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = "; indent with spaces, YAML allows no tabs" if "'\\t'" in str(error.problem) else ""
        raise UserError(f"{path}{where}: not valid YAML: {error.problem or error.context}{hint}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        likely = _OTHER_ENCODINGS.get(data[:2], "another encoding, such as Latin-1")
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}); it seems to "
            f"be {likely}: save it as UTF-8"
        ) from error


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key that a mapping has twice."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (first := lines.get((key.tag, key.value))) is not None:
                problem = f"the key '{key.value}' is there twice, in lines {first} and {line}; keep one"
                raise ConstructorError(None, None, problem, key.start_mark)
            lines[key.tag, key.value] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found
