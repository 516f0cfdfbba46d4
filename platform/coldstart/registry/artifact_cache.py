"""Reads registered artifacts: in place if the registry is local, through a cache on disk if it is remote."""

import tempfile
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from coldstart.config import Artifact, UserError, read_artifact


class ArtifactCache:
    """Verified artifacts of one registry on local disk.

    Args:
        tracking_uri: Of the registry.
        directory: For downloads, by fingerprint.
    """

    def __init__(self, tracking_uri: str, directory: Path) -> None:
        self._tracking_uri, self._directory = tracking_uri, directory

    def read(self, uri: str, kind: str, fingerprint: str) -> Artifact:
        """The artifact at `uri`, verified against its manifest and its registered fingerprint.

        Raises:
            UserError: it cannot be read, is damaged, or was replaced.
        """
        try:
            path = self._local_copy(uri, fingerprint)
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read the registered {kind} at {uri}: {reason}; register it again") from error
        artifact = read_artifact(path, kind)
        if artifact.fingerprint != fingerprint:
            raise UserError(
                f"the {kind} at {path} has fingerprint {artifact.fingerprint[:12]}, but {fingerprint[:12]} was "
                "registered; somebody replaced it: register it as a new version"
            )
        return artifact

    def _local_copy(self, uri: str, fingerprint: str) -> Path:
        """Downloads into the cache completely or not at all; a local artifact is used in place."""
        if uri.startswith("file:"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=self._tracking_uri))
        cached = self._directory / fingerprint
        if not cached.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._directory, prefix=".draft-") as draft:
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, tracking_uri=self._tracking_uri, dst_path=draft
                )
                try:
                    Path(path).rename(cached)
                except OSError:
                    if not cached.is_dir():  # Otherwise another process has put the same artifact there.
                        raise
        return cached
