"""The dashboard and the alerts use the metrics that the code defines, and all of them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coldstart.serving.monitoring import prometheus

MONITORING = Path(__file__).parents[3] / "cluster" / "monitoring"
SUFFIXES = {"Counter": ("",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def existing() -> dict[str, str]:
    """Name in Prometheus -> name in code."""
    source = Path(prometheus.__file__).read_text()
    found = re.findall(r'(Counter|Gauge|Histogram)\(\s*"(coldstart_\w+)"', source)
    assert len(found) > 20
    for kind, name in found:
        assert name.endswith("_total") == (kind == "Counter"), name
    return {f"ray_{name}{part}": name for kind, name in found for part in SUFFIXES[kind]}


def expressions() -> dict[str, list[str]]:
    dashboard = json.loads((MONITORING / "serving.json").read_text())
    return {
        "serving.json": [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]],
        "alerts.yml": [line for line in (MONITORING / "alerts.yml").read_text().splitlines() if "expr:" in line],
    }


def names(file: str) -> set[str]:
    """The metrics that a file queries."""
    return {name for expression in expressions()[file] for name in re.findall(r"ray_\w+", expression)}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool (Debian and Ubuntu: apt-get install prometheus)"
)
def test_promtool_accepts_the_files():
    done = subprocess.run(
        ["promtool", "check", "config", MONITORING / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "4 rules found" in done.stdout


@pytest.mark.parametrize("file", ["serving.json", "alerts.yml"])
def test_every_queried_metric_exists(file):
    for expression in expressions()[file]:
        queried = re.findall(r"ray_\w+", expression)
        assert queried, expression
        assert set(queried) <= set(existing()), expression


def test_every_metric_is_on_the_dashboard():
    shown = {existing()[name] for name in names("serving.json")}
    assert set(existing().values()) == shown
