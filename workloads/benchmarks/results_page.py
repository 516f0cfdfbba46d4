"""The pages in `results/`, to which benchmarks add what they measured."""

import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """Short hash of the commit that is measured; `unknown` outside a checkout."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def add_section(page: Path, section: str) -> None:
    """Inserts a Markdown section below the page's title, since the newest result comes first."""
    title, _, rest = page.read_text().partition("\n")
    page.write_text(f"{title}\n\n{section.strip()}\n\n{rest.lstrip()}")
