"""Help texts and recipe errors answer without loading the libraries that take seconds to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "ray", "mlflow", "transformers", "pandas", "matplotlib", "sklearn"]
PROGRAM = f"""
import contextlib, io, json, sys
import typer
from coldstart.cli import main
from coldstart.cli.app import app

def names(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from names(child, (*path, name))
    yield list(path)

calls = json.loads(sys.argv[1])
if calls == "every verb":
    calls = [[*path, "--help"] for path in names(typer.main.get_command(app))]
answers = []
for call in calls:
    sys.argv = ["coldstart", *call]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    answers.append({{"call": call, "code": code, "out": out.getvalue(), "err": err.getvalue()}})
print(json.dumps({{"answers": answers, "heavy": [name for name in {HEAVY} if name in sys.modules]}}))
"""


def run(calls: object) -> dict:
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_the_help_of_every_verb_loads_no_heavy_library() -> None:
    found = run("every verb")
    verbs = [answer["call"][:-1] for answer in found["answers"]]
    assert [] in verbs
    assert ["token", "new"] in verbs
    assert len(verbs) > 20
    for answer in found["answers"]:
        assert answer["code"] == 0, answer
        assert "Usage" in answer["out"], answer
    assert found["heavy"] == []


def test_a_recipe_error_is_printed_before_a_heavy_library_is_loaded(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nmethod: {coarse: {zero_stge: 2}}\n")
    verbs = [["run", "pipeline"], ["submit", "prepare"], ["serve"], ["evaluate"], ["compare-releases"], ["plan"]]
    verbs += [["models"], ["promote", "scorer", "1", "--to", "champion"], ["rollback", "scorer"], ["history"], ["gc"]]
    verbs += [["lineage", "scorer@champion"], ["stop-challenger"], ["export", str(tmp_path / "proxies.parquet")]]
    verbs += [["import-ranker", "my_ranker:MyRanker", "--weights", str(recipe)]]
    calls = [[*verb, str(recipe)] if verb == ["plan"] else [*verb, "--recipe", str(recipe)] for verb in verbs]
    found = run([["validate", str(recipe)], ["show", str(recipe)], *calls])
    for answer in found["answers"]:
        assert answer["code"] == 2, answer
        assert "'zero_stge'" in answer["err"]
        assert "'zero_stage'" in answer["err"]
    assert found["heavy"] == []


def test_other_errors_load_no_heavy_library() -> None:
    found = run(
        [
            ["run", "pipeline", "--resume", "--set", "method.coarse.zero_stge=2"],
            ["run", "prepare", "--recipe=no-such-recipe"],
            ["run", "no_such_workload"],
            ["validate", "demo", "--set", "no_such_section.key=1"],
        ]
    )
    assert [answer["code"] for answer in found["answers"]] == [2, 2, 2, 2]
    assert found["heavy"] == []


def test_a_valid_recipe_of_generated_data_is_checked_without_a_heavy_library() -> None:
    found = run([["validate", "demo"]])
    assert found["answers"][0]["code"] == 0
    assert found["heavy"] == []


def test_a_cluster_is_asked_before_the_workload_is_loaded() -> None:
    found = run([["run", "pipeline", "--address", "127.0.0.1:1"]])
    assert found["answers"][0]["code"] == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in found["answers"][0]["err"]
    assert not {"torch", "transformers", "mlflow", "sklearn"} & {*found["heavy"]}
