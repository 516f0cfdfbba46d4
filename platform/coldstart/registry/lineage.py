"""The lineage of a version: the models it was made from, down to the dataset."""

from dataclasses import asdict, dataclass
from typing import Any

from coldstart.config import UserError
from coldstart.registry.alias_state import read_alias_state
from coldstart.registry.packaging import KINDS
from coldstart.registry.registry import Registry
from coldstart.registry.version_tags import DATASET, FINGERPRINT, PROXIES, upstream_versions


@dataclass(frozen=True)
class LineageNode:
    """One model, item table or dataset in a lineage.

    Attributes:
        kind: adaptor, proxies, encoder, ranker or dataset.
        fingerprint: `None` if it is unknown.
        version: Registered version; `None` for proxies and datasets, which have none.
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
        reference: `adaptor@champion` or `ranker/3`.

    Raises:
        UserError: not a reference, or there is no such version.
    """
    kind, number = _parse_reference(registry, reference)
    registered = registry.version(kind, number)
    nodes = [_node(registry, kind, number)]
    if kind == "adaptor":
        nodes.append(LineageNode("proxies", registered.tags.get(PROXIES)))
    upstream = upstream_versions(registered)
    nodes += [_node(registry, kind, upstream[kind]) for kind in reversed(KINDS) if kind in upstream]
    return [*nodes, LineageNode("dataset", registered.tags.get(DATASET))]


def _parse_reference(registry: Registry, reference: str) -> tuple[str, int]:
    kind, at, alias = reference.partition("@")
    if at:
        registry.model_name(kind)
        state = read_alias_state(registry, alias)
        if state.version is None:
            raise UserError(f"{registry.project} has no {alias}; `coldstart models` lists the registered versions")
        versions = {"adaptor": state.version} | upstream_versions(registry.version("adaptor", state.version))
        return kind, versions[kind]
    kind, _, number = reference.partition("/")
    registry.model_name(kind)
    if not number.isdigit():
        raise UserError(f"'{reference}' is not a reference; write adaptor@champion or {kind}/3")
    return kind, int(number)


def _node(registry: Registry, kind: str, number: int) -> LineageNode:
    try:
        registered = registry.version(kind, number)
    except UserError:
        return LineageNode(kind, None, number, missing=True)
    created = registered.creation_timestamp / 1000
    return LineageNode(kind, registered.tags.get(FINGERPRINT), number, created, registered.run_id)
