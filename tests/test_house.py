"""The rules of the house, as tests."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

from coldstart.config import Recipe
from coldstart.config.recipe.method import SETTINGS
from coldstart.jobs import PROGRAMS
from coldstart.methods.available import METHODS

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "platform" / "coldstart"
ROOMS = [
    ["config", "ray_compat"],
    ["data", "metrics"],
    ["modules"],
    ["encoders", "rankers"],
    ["training"],
    ["methods"],
    ["evaluation"],
    ["registry"],
    ["serving"],
    ["client", "jobs"],
    ["cli"],
]
RANK = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules() -> list[Path]:
    found = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY)
    assert len(found) > 30
    return found


def test_rooms_import_only_from_rooms_to_their_left():
    for path in modules():
        room = path.relative_to(LIBRARY).parts[0]
        if path.match("methods/*/config.py"):
            room = "config"  # The recipe has a section per method; the settings lie with their method.
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "coldstart" and len(parts) > 1:
                other = parts[1]
                assert other == room or RANK[other] < RANK[room], f"{path} imports {name}"


def test_ray_and_mlflow_stay_at_the_edges():
    for path in modules():
        where = path.relative_to(LIBRARY).as_posix()
        tops = {name.split(".")[0] for name in imports(path)}
        if "ray" in tops:
            edges = ("data/streaming.py", "training/launch.py", "training/preemption.py")
            edges = (*edges, "methods/embed_items.py", "methods/encoder_actor.py")
            assert where in edges or where.startswith(("ray_compat/", "serving/", "jobs/", "cli/")), where
        if "mlflow" in tops:
            assert where.startswith("registry/"), where


def test_private_apis_of_ray_are_used_only_by_ray_compat():
    names = r"ray\.[\w.]*\._|ray\.dashboard|ray\._|ray\.[\w.]*internal_kv|SERVE_CONTROLLER_ACTOR|__internal_head__"
    private = re.compile(names)
    for path in [*modules(), *sorted((ROOT / "workloads").rglob("*.py"))]:
        if path.parent != LIBRARY / "ray_compat":
            assert not private.findall(path.read_text()), path


def test_top_level_holds_only_what_was_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tops = {name.split("/")[0] for name in tracked if name}
    agreed = {"pyproject.toml", "constraints.txt", "README.md", "Makefile", "LICENSE"}
    agreed |= {"platform", "workloads", "cluster", "tests"}
    assert {top for top in tops if not top.startswith(".")} <= agreed
    assert not (ROOT / "platform" / "__init__.py").exists()


MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
MAX_COPIED_LINES = 10

RETIRED_WORDS = frozenset(
    """
    foretold foretell foretells levelled gaze rival rivals appeal appeals appealing untold anew thereof whereof manieth
    farewell crew heed heeds condemned overtaken colour colours catalogue catalogues normalise normalised summarise
    summarised licence licences neighbour neighbours picture pictures behaviour artefact artefacts labelled labelling
    """.split()  # noqa: SIM905
)
"""Words, alone or in an identifier, that had several meanings, name nothing in the field, or are not US spelling."""

MENTIONED = {
    "platform/coldstart/config/recipe/synonyms.py": {"picture", "pictures"},
    "platform/coldstart/evaluation/report/report.html.j2": {"appeal"},
    "tests/config/test_recipe.py": {"picture"},
}
"""Where a retired word is what the text is about: a refused key, a term of the papers."""

RETIRED_IDENTIFIERS = frozenset(
    """
    hand_over id_shares judged_rows taste_rows start_from START_SCALE PastAttention ReadingRanker IdRows check_whole
    place_of FIRST_STEP PLENTY split_mature make_rival ContentAppeal ProxiedRanker choose_hand_over HiddenItems
    HiddenIds as_cold ClickLoop CoarseTask cut_passes told_to_leave StayingMachines HostMemory keep_partitioned Coded
    whole_state
    WITHHELD judge_features ContentSwitch AdaptorParts BY_APPEAL takes_over label_at_least max_bad_share taste_share
    hidden_share more_errors fold_after ann_from max_bulk BatchWatch ShortWay golden_ms golden_parity earned_cosine
    taken_in_seconds newest_item_seconds resize_seconds data_cpus hidden_words group_reading trusted_features
    """.split()  # noqa: SIM905
)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split() if (path := ROOT / name).is_file()]


def parts(token: str) -> list[str]:
    """Words of an identifier: `AbTest`, `ab_test` and `AB_TEST` alike."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", token)]


def test_modules_are_readable_in_one_sitting():
    for path in [*modules(), *sorted((ROOT / "workloads").rglob("*.py"))]:
        assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES, path


def test_functions_are_short_and_take_few_parameters():
    checked = 0
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            checked += 1
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, where
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name not in ("self", "cls")]) <= MAX_PARAMETERS, where
    assert checked > 3000


def test_retired_names_do_not_come_back():
    files = tracked(
        "*.py", "*.md", "*.yaml", "*.yml", "*.js", "*.html", "*.j2", "*.css", "*.json", "*.toml", "Makefile"
    )
    assert len(files) > 400
    for path in files:
        name = str(path.relative_to(ROOT))
        if path == Path(__file__):
            continue
        retired = RETIRED_WORDS - MENTIONED.get(name, set())
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for token in re.findall(r"[A-Za-z_]+", line):
                assert token not in RETIRED_IDENTIFIERS, f"{name}:{number}: {token}"
                assert retired.isdisjoint(parts(token)), f"{name}:{number}: {token}"


def test_no_code_is_copied():
    """No run of more than MAX_COPIED_LINES lines of code is in two places outside the tests."""
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in [*modules(), *sorted((ROOT / "workloads").rglob("*.py"))]:
        lines = [line.strip() for line in path.read_text().splitlines()]
        code = [line for line in lines if re.search(r"\w", line) and not line.startswith(("#", "import ", "from "))]
        for start in range(len(code) - MAX_COPIED_LINES):
            places[tuple(code[start : start + MAX_COPIED_LINES + 1])].add(f"{path.relative_to(ROOT)}: {code[start]}")
    copied = [sorted(where) for where in places.values() if len(where) > 1]
    assert not copied, copied[0]


def test_every_job_has_an_entry_of_a_few_lines():
    entries = {path.stem: path.read_text() for path in (ROOT / "workloads").glob("*.py") if path.stem != "__init__"}
    methods = {stage for settings in SETTINGS.values() for stage in settings.stages}
    assert set(PROGRAMS) <= set(entries) <= set(PROGRAMS) | methods
    for name, text in entries.items():
        assert len(text.splitlines()) <= 8
        assert text.endswith(f'    run_job("{name}")\n')


def test_stages_that_a_method_names_are_those_it_has():
    for name, settings in SETTINGS.items():
        recipe = Recipe.model_validate({"name": "any", "method": {"name": name}})
        assert {stage.name for stage in METHODS[name].stages(recipe)} <= set(settings.stages)
