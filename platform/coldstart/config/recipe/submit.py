"""How `coldstart submit` hands a job to a cluster."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat

from coldstart.config.section import LocalPath, Section


def _check_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("an environment variable is named here, without its value: letters, digits and underscores")
    return name


Variable = Annotated[str, AfterValidator(_check_variable)]


class Submit(Section):
    """The job of a run on a cluster: who gets it, what it holds, and what travels with it."""

    address: str | None = None
    """URL of the Ray dashboard. None reads RAY_API_SERVER_ADDRESS, and else takes this machine's."""
    verify: bool = True
    """Whether the certificate of an https address is checked."""
    ca_file: LocalPath | None = None
    """Certificates (PEM) to check it with instead of the system's."""
    headers: dict[str, str] = Field(default_factory=dict)
    """HTTP headers for a proxy in front of the dashboard; `$NAME` in a value is an environment variable, read when a
    request is made, so that no secret is stored in a recipe."""
    working_dir: LocalPath | None = None
    """Directory that travels with the job and in which it runs, such as a checkout with changes. None: the code is in
    the image of the cluster."""
    max_upload_mb: PositiveFloat = 100
    """Limit of `working_dir` without what .gitignore and .rayignore name. Ray keeps the upload in the memory of the
    head and refuses 512."""
    driver_cpus: PositiveFloat = 1
    """Logical CPUs that the driver holds. Because of them it does not run on a head that has none."""
    driver_memory_gb: PositiveFloat = 1
    """Memory that the driver holds, in Ray's accounts."""
    env: tuple[Variable, ...] = ()
    """Environment variables whose values travel with the job; the dashboard shows them."""
    secrets: tuple[Variable, ...] = ()
    """Environment variables that the nodes themselves must have, such as those of a Kubernetes secret. Only the names
    travel; a node that lacks one is named before the job starts."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Shown with the job in the dashboard."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that the driver may run on."""
