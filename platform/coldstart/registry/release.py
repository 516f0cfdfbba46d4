"""A release: one adaptor version with the exact encoder, ranker and dataset that it was made for."""

from dataclasses import dataclass

from coldstart.config import Artifact, UserError


@dataclass(frozen=True)
class Release:
    """Models of one lineage, verified and on local disk.

    Attributes:
        project: Prefix of the registered models.
        alias: Alias that was resolved; `None` if the release was requested by version.
        versions: kind -> version of adaptor, encoder and ranker.
        dataset: Fingerprint of the dataset that all of them were made from.
        ranker: The ranker's artifact.
        encoder: The encoder's artifact.
        adaptor: The adaptor's artifact; its fingerprint names the proxy space.
        proxies: Coarse proxies and layer states of the catalog, which the adaptor was trained on.
    """

    project: str
    alias: str | None
    versions: dict[str, int]
    dataset: str
    ranker: Artifact
    encoder: Artifact
    adaptor: Artifact
    proxies: Artifact

    @property
    def name(self) -> str:
        """Short name for logs and responses, e.g. `demo-adaptor/3`."""
        return f"{self.project}-adaptor/{self.versions['adaptor']}"

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all parts, by kind."""
        return {part.kind: part.fingerprint for part in (self.ranker, self.encoder, self.proxies, self.adaptor)}


def check_consistent(release: Release) -> None:
    """Compares lineage and widths of the parts of a release.

    Raises:
        UserError: names the part that disagrees.
    """
    parts = {"ranker": release.ranker, "encoder": release.encoder, "proxies": release.proxies}
    for user in (release.encoder, release.proxies, release.adaptor):
        for kind, part in parts.items():
            used = user.lineage.get(kind)
            if used is not None and used != part.fingerprint:
                raise UserError(
                    f"release {release.name}: the {user.kind} was made with {kind} {used[:12]}, but the release has "
                    f"{part.fingerprint[:12]}; a proxy is valid only in the ID space it was aligned with"
                )
    for part in (*parts.values(), release.adaptor):
        if part.lineage.get("dataset") != release.dataset:
            raise UserError(
                f"release {release.name}: the adaptor was made from dataset {release.dataset[:12]}, the {part.kind} "
                f"from {str(part.lineage.get('dataset'))[:12]}; run the stages from the {part.kind} on again"
            )
    for quantity, key, adaptor_key in (
        ("ID widths", "width", "width"),
        ("layer groups", "groups", "groups"),
        ("MLLM widths", "hidden", "state_width"),
    ):
        values = {part.kind: part.metadata[key] for part in parts.values() if key in part.metadata}
        values |= {"adaptor": release.adaptor.metadata[adaptor_key]} if adaptor_key in release.adaptor.metadata else {}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{kind} {value}" for kind, value in values.items())
            raise UserError(f"release {release.name}: {quantity} differ ({shown}); train all parts with one recipe")
