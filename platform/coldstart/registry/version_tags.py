"""The tags of a registered version: its fingerprint, its license, and its lineage by fingerprint and by version."""

from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion as MlflowVersion

from coldstart.config import Artifact
from coldstart.registry.packaging import KINDS

FINGERPRINT, LICENSE = "coldstart.fingerprint", "coldstart.license"
DATASET, PROXIES = "coldstart.dataset", "coldstart.proxies"
REPLAYED_ROWS = "coldstart.replayed"
"""Of an adaptor: the newest rows, besides those of its dataset, that it scored as a challenger."""


def tags_of(artifact: Artifact, upstream: Mapping[str, int], license_name: str) -> dict[str, str]:
    """The tags of an artifact that was made from `upstream`: kind -> registered version."""
    tags = {"coldstart.kind": artifact.kind, FINGERPRINT: artifact.fingerprint, LICENSE: license_name}
    tags |= {f"coldstart.{kind}": fingerprint for kind, fingerprint in artifact.lineage.items()}
    tags |= {f"coldstart.{kind}.version": str(number) for kind, number in upstream.items()}
    return tags


def upstream_versions(entry: MlflowVersion) -> dict[str, int]:
    """Versions, by kind, of the models that a registered version was made from."""
    tagged = ((kind, entry.tags.get(f"coldstart.{kind}.version")) for kind in KINDS)
    return {kind: int(number) for kind, number in tagged if number is not None}
