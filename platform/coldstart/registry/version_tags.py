"""The tags of a registered version: method, fingerprint, license, and its lineage by fingerprint and by version."""

from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion as MlflowVersion

from coldstart.config import Artifact
from coldstart.methods.base import ITEM_TABLE
from coldstart.methods.kinds import registered_kinds

_PREFIX, _VERSION = "coldstart.", ".version"
METHOD, FINGERPRINT, LICENSE = "coldstart.method", "coldstart.fingerprint", "coldstart.license"
DATASET, ITEMS = "coldstart.dataset", f"{_PREFIX}{ITEM_TABLE}"
REPLAYED_ROWS = "coldstart.replayed"
"""Of a scorer: the newest rows, besides those of its dataset, that it scored as a challenger."""


def lineage_tag(kind: str) -> str:
    """The tag with the fingerprint of the artifact of a kind that a version was made from."""
    return f"{_PREFIX}{kind}"


def tags_of(artifact: Artifact, method: str, upstream: Mapping[str, int], license_name: str) -> dict[str, str]:
    """The tags of an artifact of a method that was made from `upstream`: kind -> registered version."""
    tags = {"coldstart.kind": artifact.kind, METHOD: method, FINGERPRINT: artifact.fingerprint, LICENSE: license_name}
    tags |= {lineage_tag(kind): fingerprint for kind, fingerprint in artifact.lineage.items()}
    tags |= {f"{lineage_tag(kind)}{_VERSION}": str(number) for kind, number in upstream.items()}
    return tags


def upstream_versions(entry: MlflowVersion) -> dict[str, int]:
    """Versions, by kind, of the models that a registered version was made from, of whatever method they are."""
    found = {
        tag.removeprefix(_PREFIX).removesuffix(_VERSION): int(number)
        for tag, number in entry.tags.items()
        if tag.startswith(_PREFIX) and tag.endswith(_VERSION) and number.isdigit()
    }
    known = [kind for kind in registered_kinds() if kind in found]
    return {kind: found[kind] for kind in (*known, *sorted(found.keys() - set(known)))}
