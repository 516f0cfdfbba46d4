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

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all parts, by kind."""
        return {part.kind: part.fingerprint for part in (self.ranker, self.encoder, self.proxies, self.adaptor)}


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
    for meaning, name, of_adaptor in (
        ("ID widths", "width", "width"),
        ("layer groups", "groups", "groups"),
        ("MLLM widths", "hidden", "state_width"),
    ):
        told = {part.kind: part.about[name] for part in parts.values() if name in part.about}
        told |= {"adaptor": release.adaptor.about[of_adaptor]} if of_adaptor in release.adaptor.about else {}
        if len(set(told.values())) > 1:
            shown = ", ".join(f"{kind} {value}" for kind, value in told.items())
            raise UserError(f"release {release.name}: {meaning} differ ({shown}); train them from one recipe")
