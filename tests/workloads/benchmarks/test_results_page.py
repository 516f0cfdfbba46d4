from workloads.benchmarks.results_page import RESULTS, add_section, commit


def test_a_section_is_inserted_below_the_title(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n## First\n\nold\n")
    add_section(page, "## Second\n\nnew\n")
    assert page.read_text() == "# Title\n\n## Second\n\nnew\n\n## First\n\nold\n"


def test_the_index_lists_every_page():
    index = (RESULTS / "README.md").read_text()
    for page in RESULTS.glob("*.md"):
        assert page.name == "README.md" or f"[{page.name}]({page.name})" in index
        assert page.read_text().startswith("# ")


def test_the_commit_is_that_of_the_checkout():
    hexadecimal = commit()
    assert hexadecimal == "unknown" or int(hexadecimal, 16) > 0
