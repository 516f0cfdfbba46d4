"""The lineage of a version: the models it was made from, down to the dataset."""

from dataclasses import asdict, dataclass
from typing import Any

from coldstart.config import UserError
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.registry.alias_state import read_alias_state
from coldstart.registry.registry import Registry
from coldstart.registry.version_tags import DATASET, FINGERPRINT, ITEMS, upstream_versions


@dataclass(frozen=True)
class LineageNode:
    """One model, item table or dataset in a lineage.

    Attributes:
        kind: A kind of registered models, `item_table` or `dataset`.
        fingerprint: `None` if it is unknown.
        version: Registered version; `None` for item tables and datasets, which have none.
        created: Unix seconds of the registration.
        run_id: MLflow run with recipe, metrics and dataset.
        missing: Whether the version was deleted from the registry.
    """

    kind: str
    fingerprint: str | None
    version: int | None = None
    created: float | None = None
    run_id: str | None = None
    missing: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def lineage(registry: Registry, reference: str) -> list[LineageNode]:
    """The nodes from a version down to its dataset.

    Args:
        registry: The project's registry.
        reference: `scorer@champion` or `ranker/3`.

    Raises:
        UserError: not a reference, or there is no such version.
    """
    kind, number = _parse_reference(registry, reference)
    registered = registry.version(kind, number)
    nodes = [_node(registry, kind, number)]
    if kind == SCORER:
        nodes.append(LineageNode(ITEM_TABLE, registered.tags.get(ITEMS)))
    upstream = upstream_versions(registered)
    nodes += [_node(registry, name, version) for name, version in reversed(upstream.items())]
    return [*nodes, LineageNode("dataset", registered.tags.get(DATASET))]


def _parse_reference(registry: Registry, reference: str) -> tuple[str, int]:
    kind, at, alias = reference.partition("@")
    if at:
        registry.model_name(kind)
        state = read_alias_state(registry, alias)
        if state.version is None:
            raise UserError(f"{registry.project} has no {alias}; `coldstart models` lists the registered versions")
        versions = {SCORER: state.version} | upstream_versions(registry.version(SCORER, state.version))
        if kind not in versions:
            raise UserError(f"the release at {alias} has no {kind}; it consists of {', '.join(versions)}")
        return kind, versions[kind]
    kind, _, number = reference.partition("/")
    registry.model_name(kind)
    if not number.isdigit():
        raise UserError(f"'{reference}' is not a reference; write {SCORER}@champion or {kind}/3")
    return kind, int(number)


def _node(registry: Registry, kind: str, number: int) -> LineageNode:
    try:
        registered = registry.version(kind, number)
    except UserError:
        return LineageNode(kind, None, number, missing=True)
    created = registered.creation_timestamp / 1000
    return LineageNode(kind, registered.tags.get(FINGERPRINT), number, created, registered.run_id)
