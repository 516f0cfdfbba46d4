from pathlib import Path

from coldstart.config import Journal
from workloads.console import CONSOLE, live_line


def test_a_stage_with_many_figures_shows_a_few_of_them(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    for stage in ("align_coarse", "train_ranker"):
        with CONSOLE.capture() as told, live_line(stage, journal):
            journal.write(1, 2, loss=0.5, hfu=0.25, mfu=0.125, gradient_norm=3.0)
        shown = told.get().splitlines()[-1]
        assert "loss 0.5" in shown
        assert "mfu 0.125" in shown
        assert ("hfu 0.25" in shown) == (stage != "align_coarse")
