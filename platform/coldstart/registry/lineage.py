"""The chain of what a version was made from, down to the dataset."""

from dataclasses import asdict, dataclass
from typing import Any

from coldstart.config import UserError
from coldstart.registry.packaging import KINDS
from coldstart.registry.registry import FINGERPRINT, Registry, upstream_versions
from coldstart.registry.standing import look


@dataclass(frozen=True)
class Link:
    """One thing in a chain.

    Attributes:
        kind: adaptor, proxies, encoder, ranker or dataset.
        fingerprint: What identifies it; `None` if it was not told.
        version: Registered version; `None` for proxies and datasets, which have none.
        created: Unix seconds of the registration.
        run_id: MLflow run with recipe, metrics and dataset.
        missing: Whether the version is gone from the registry.
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


def lineage(registry: Registry, reference: str) -> list[Link]:
    """The links from a version down to its dataset.

    Args:
        registry: The project's registry.
        reference: `adaptor@champion` or `ranker/3`.

    Raises:
        UserError: not a reference, or there is no such version.
    """
    kind, number = _resolve(registry, reference)
    entry = registry.version(kind, number)
    links = [_link(registry, kind, number)]
    if kind == "adaptor":
        links.append(Link("proxies", entry.tags.get("coldstart.proxies")))
    pinned = upstream_versions(entry)
    links += [_link(registry, above, pinned[above]) for above in reversed(KINDS) if above in pinned]
    return [*links, Link("dataset", entry.tags.get("coldstart.dataset"))]


def _resolve(registry: Registry, reference: str) -> tuple[str, int]:
    kind, at, alias = reference.partition("@")
    if at:
        registry.model_name(kind)
        standing = look(registry, alias)
        if standing.version is None:
            raise UserError(f"no {alias} stands in {registry.project}; `coldstart models` lists what is registered")
        versions = {"adaptor": standing.version} | upstream_versions(registry.version("adaptor", standing.version))
        return kind, versions[kind]
    kind, _, number = reference.partition("/")
    registry.model_name(kind)
    if not number.isdigit():
        raise UserError(f"'{reference}' is not a reference; write adaptor@champion or {kind}/3")
    return kind, int(number)


def _link(registry: Registry, kind: str, number: int) -> Link:
    try:
        entry = registry.version(kind, number)
    except UserError:
        return Link(kind, None, number, missing=True)
    return Link(kind, entry.tags.get(FINGERPRINT), number, entry.creation_timestamp / 1000, entry.run_id)
