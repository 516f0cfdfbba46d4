"""One function per verb, for people or with `--json` for machines; exit code 2 is a mistake the user can mend."""

import json
import runpy
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from coldstart.config import Recipe, UserError, digest, dump_recipe, load_recipe

app = typer.Typer(
    name="coldstart",
    help="Give brand-new items a place in the ID-embedding space of a running CTR ranker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="Shipped recipe name or YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Override a setting; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OUT = Console(highlight=False)


def main() -> None:
    """Entry point of the `coldstart` command."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _load(name: str, overrides: list[str] | None) -> Recipe:
    from workloads.job import find_recipe

    return load_recipe(find_recipe(name), overrides or ())


@app.command(epilog="Example: coldstart validate movielens --set data.files.root=films")
def validate(recipe: Annotated[str, typer.Argument()], overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and, where they are local, the files and the MLLM it names."""
    from coldstart.data.readers import check_files
    from coldstart.encoders.checkpoint import check_mllm

    loaded = _load(recipe, overrides)
    notes = []
    if loaded.data.source == "files":
        if loaded.data.files.root.exists():
            check_files(loaded.data.files)
        else:
            notes.append(f"data.files.root {loaded.data.files.root} is not on this machine; its files were not checked")
    if Path(loaded.encoder.mllm).exists():
        check_mllm(loaded.encoder)
    elif loaded.encoder.mllm != "tiny":
        notes.append(
            f"encoder.mllm {loaded.encoder.mllm} is not a local directory; it is loaded from the hub at run time"
        )
    if as_json:
        print(json.dumps({"recipe": loaded.name, "hash": digest(loaded), "valid": True, "notes": notes}))
        return
    OUT.print(f"recipe '{loaded.name}' is valid  [dim]{digest(loaded)[:12]}[/]")
    for note in notes:
        OUT.print(f"note: {note}", soft_wrap=True)


@app.command(epilog="Example: coldstart recipes")
def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes, each with the command that runs it."""
    from workloads.job import RECIPES

    rows = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        head = [line.removeprefix("#").strip() for line in path.read_text().splitlines()[:2]]
        rows[path.stem] = {"about": head[0], "command": head[1]}
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("recipe", "what it is", "command", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        table.add_row(name, row["about"], row["command"])
    OUT.print(table)


@app.command(epilog="Example: coldstart schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command(epilog="Example: coldstart show demo --set seed=3")
def show(recipe: Annotated[str, typer.Argument()], overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    print(dump_recipe(_load(recipe, overrides)), end="")


@app.command(epilog="Example: coldstart generate catalogue --items 2000 --users 1000 --events 100000")
def generate(
    out: Annotated[Path, typer.Argument(help="Directory to write items.parquet, events.parquet and truth.json into.")],
    items: Annotated[int, typer.Option(min=1)] = 4000,
    users: Annotated[int, typer.Option(min=1)] = 2000,
    events: Annotated[int, typer.Option(min=1)] = 400_000,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Draw the embedded default catalogue: a simulated content platform whose click probabilities are known."""
    from coldstart.config.recipe import Generated
    from coldstart.data.generator import generate as draw

    draw(Generated(items=items, users=users, events=events), seed, out)
    OUT.print(f"{items} items and {events} events in {out}")


@app.command("make-mllm", epilog="Example: coldstart make-mllm runs/tiny --dataset runs/demo/dataset")
def make_mllm(
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    dataset: Annotated[Path, typer.Option(help="Prepared dataset whose words the tokenizer learns.")],
    picture_size: Annotated[int, typer.Option(min=16)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Make the tiny offline MLLM: an ordinary checkpoint of about a million random parameters."""
    from coldstart.data.dataset import Dataset
    from coldstart.encoders.tiny import make_mllm as make

    make(out, Dataset.open(dataset).texts(), picture_size=picture_size, seed=seed)
    OUT.print(f"checkpoint at {out}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: coldstart run pipeline --recipe demo",
)
def run(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")]
) -> None:
    """Run a workload here: on the cluster at --address or RAY_ADDRESS, else on a local Ray it starts."""
    _known(name)
    sys.argv = [name, *context.args]
    runpy.run_module(f"workloads.{name}", run_name="__main__", alter_sys=True)


@app.command(epilog="Example: coldstart submit pipeline --recipe movielens --address http://127.0.0.1:8265")
def submit(
    name: Annotated[str, typer.Argument(help="Workload, e.g. pipeline or prepare.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
    as_json: AsJson = False,
) -> None:
    """Submit a workload as a job to a running Ray cluster."""
    from coldstart.cli.jobs import submit_job

    _known(name)
    outcome = submit_job(name, _load(recipe, overrides), address=address, wait=wait, quiet=as_json)
    if as_json:
        print(json.dumps(outcome))
    else:
        OUT.print(f"job {outcome['job_id']} {outcome['status'].lower()}")
    if outcome["status"] in ("FAILED", "STOPPED"):
        raise SystemExit(1)


def _known(name: str) -> None:
    from workloads.job import RECIPES

    programs = sorted(
        path.stem for path in RECIPES.parent.glob("*.py") if "__main__" in path.read_text() and path.stem != "__init__"
    )
    if name not in programs:
        raise UserError(f"no workload '{name}'; allowed: {', '.join(programs)}")


@app.command(epilog="Example: coldstart models --recipe demo")
def models(recipe: RecipeName = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the registered model versions of a project with aliases, lineage and cold GAUC."""
    from coldstart.registry import Registry

    loaded = _load(recipe, overrides)
    rows: list[dict[str, Any]] = Registry(loaded.tracking_uri, loaded.project).versions()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("model", "version", "alias", "cold GAUC", "made from", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        gauc = "" if row["cold_gauc"] is None else f"{row['cold_gauc']:.4f}"
        made_from = "  ".join(f"{kind} v{version}" for kind, version in row["upstream"].items())
        table.add_row(row["name"], str(row["version"]), ", ".join(row["aliases"]), gauc, made_from)
    OUT.print(table)


@app.command(epilog="Example: coldstart promote adaptor 1 --to champion")
def promote(
    kind: Annotated[str, typer.Argument(help="Model to move: adaptor (its release moves with it).")],
    version: Annotated[int, typer.Argument(min=1)],
    to: Annotated[str, typer.Option(help="Alias: champion or challenger.")] = "champion",
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Annotated[str, typer.Option(help="Reason, kept in the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Promote a version if it passes the gate; exit code 1 when the gate refuses."""
    from coldstart.registry import Registry
    from coldstart.registry import promote as move

    loaded = _load(recipe, overrides)
    registry = Registry(loaded.tracking_uri, loaded.project)
    verdict = move(registry, kind, version, alias=to, tolerance=loaded.registry.gate_tolerance, why=why)
    if as_json:
        print(json.dumps(verdict.as_dict()))
    else:
        OUT.print(verdict.sentence(), soft_wrap=True)
    if not verdict.passed:
        raise SystemExit(1)


@app.command(epilog="Example: coldstart serve --recipe demo")
def serve(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    alias: Annotated[str, typer.Option(help="Alias whose release is served.")] = "champion",
    address: Annotated[
        str | None, typer.Option(help="host:port of a running Ray cluster; default: a local Ray.")
    ] = None,
) -> None:
    """Serve a release over HTTP until interrupted."""
    from workloads.serve import serve_forever

    serve_forever(_load(recipe, overrides), alias=alias, address=address)
