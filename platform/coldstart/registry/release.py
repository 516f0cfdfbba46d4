"""A release: one adaptor version with the exact encoder, ranker and dataset it was made for."""

from dataclasses import dataclass

from coldstart.config import Artifact, UserError


@dataclass(frozen=True)
class Release:
    """Models that fit together, on local disk and verified.

    Attributes:
        project: Prefix of the registered models.
        alias: Alias it was asked for by; `None` when asked for by version.
        versions: kind -> version of adaptor, encoder and ranker.
        dataset: Fingerprint of the dataset that all of them were made from.
        ranker: The ranker's artifact.
        encoder: The encoder's artifact.
        adaptor: The adaptor's artifact; its fingerprint names the proxy space.
        proxies: Coarse proxies and layer states of the catalogue, which the adaptor was trained on.
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


def check_consistent(release: Release) -> None:
    """Compares lineage and widths of the parts of a release.

    Raises:
        UserError: says which part disagrees, and how.
    """
    parts = {"ranker": release.ranker, "encoder": release.encoder, "proxies": release.proxies}
    for user in (release.encoder, release.proxies, release.adaptor):
        for kind, part in parts.items():
            used = user.lineage.get(kind)
            if used is not None and used != part.fingerprint:
                raise UserError(
                    f"release {release.name}: the {user.kind} was made with {kind} {used[:12]}, the release has "
                    f"{part.fingerprint[:12]}; a proxy means nothing outside the ID space it was aligned with"
                )
    for part in (*parts.values(), release.adaptor):
        if part.lineage.get("dataset") != release.dataset:
            raise UserError(
                f"release {release.name}: the adaptor was made from dataset {release.dataset[:12]}, the {part.kind} "
                f"from {str(part.lineage.get('dataset'))[:12]}; make the {part.kind} and what follows anew"
            )
    widths = {part.kind: part.about["width"] for part in (*parts.values(), release.adaptor) if "width" in part.about}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{kind} {width}" for kind, width in widths.items())
        raise UserError(f"release {release.name}: ID widths differ ({shown}); train them from one recipe")
