"""The pages in `results/`, to which benchmarks add what they measured."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def add_section(page: Path, section: str) -> None:
    """Inserts a Markdown section below the page's title, since the newest result comes first."""
    title, _, rest = page.read_text().partition("\n")
    page.write_text(f"{title}\n\n{section.strip()}\n\n{rest.lstrip()}")
