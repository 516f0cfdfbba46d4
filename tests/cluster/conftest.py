from collections.abc import Iterator

import pytest

from tests.cluster.nodes import RayNodes, missing, ray_nodes


@pytest.fixture(scope="module")
def separate_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Three nodes without a shared disk and without Ray."""
    if reason := missing():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("nodes")
    (directory / "runs").mkdir()
    with ray_nodes(directory, directory / "runs", shared=False) as nodes:
        yield nodes
