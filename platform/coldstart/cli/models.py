"""Verbs about registered models: what there is, where it comes from, and what stands."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.tree import Tree

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.config import Recipe

if TYPE_CHECKING:
    from coldstart.registry import Registry
    from coldstart.registry.ledger import Record

Kind = Annotated[str, typer.Argument(help="Model to move: adaptor (its release moves with it).")]
Why = Annotated[str, typer.Option(help="Reason, kept in the record.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]
_FIGURES = {"cold GAUC": "cold_gauc", "by item": "cold_gauc_item", "all GAUC": "all_gauc"}
_VERDICTS = {True: "[green]passed[/]", False: "[red]refused[/]", None: "[yellow]not compared[/]"}


def _open(name: str, overrides: list[str] | None) -> "tuple[Registry, Recipe]":
    from coldstart.registry import Registry

    recipe = load(name, overrides)
    return Registry(recipe.tracking_uri, recipe.project), recipe


@app.command(epilog="Example: coldstart models --recipe demo")
def models(recipe: RecipeName = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the registered versions of a project: aliases, ages, figures, and what they were made from."""
    registry, _ = _open(recipe, overrides)
    rows: list[dict[str, Any]] = registry.versions()
    if as_json:
        print(json.dumps(rows))
        return
    table = _table("model", "version", "alias", "age", *_FIGURES, "made from")
    for row in rows:
        figures = (row["metrics"].get(name) for name in _FIGURES.values())
        shown = ("-" if figure is None else f"{figure:.4f}" for figure in figures)
        made_from = " ".join(f"{kind} {version}" for kind, version in row["upstream"].items())
        made_from = f"{made_from} dataset {str(row['dataset'])[:8]}".strip()
        aliases = " ".join(row["aliases"])
        table.add_row(row["name"], str(row["version"]), aliases, _age(row["created"]), *shown, made_from)
    OUT.print(table)


@app.command(epilog="Example: coldstart lineage adaptor@champion")
def lineage(
    reference: Annotated[str, typer.Argument(help="A version, as adaptor@champion or ranker/3.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what a version was made from, down to the fingerprint of the dataset."""
    from coldstart.registry.lineage import lineage as trace

    registry, _ = _open(recipe, overrides)
    links = trace(registry, reference)
    if as_json:
        print(json.dumps([link.as_dict() for link in links]))
        return
    tree = node = None
    for link in links:
        name = link.kind if link.version is None else f"{registry.model_name(link.kind)} version {link.version}"
        told = "[red]deleted[/]" if link.missing else f"[dim]{str(link.fingerprint)[:12]}[/]"
        age = "" if link.created is None else f"  registered {_age(link.created)} ago"
        line = f"{name}  {told}{age}"
        node = node.add(line) if node else (tree := Tree(line))
    OUT.print(tree, soft_wrap=True)


@app.command(epilog="Example: coldstart promote adaptor 1 --to champion")
def promote(
    kind: Kind,
    version: Annotated[int, typer.Argument(min=1)],
    to: Annotated[str, typer.Option(help="Alias: champion or challenger.")] = "champion",
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Why = "",
    override: Annotated[
        bool, typer.Option("--override", help="Promote although gates refuse; needs --why, and is shown for good.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Promote a version if it passes the gates; exit code 1 when they refuse."""
    from coldstart.registry import decide, sentence
    from coldstart.registry import promote as move
    from coldstart.serving.golden import golden_figures

    registry, loaded = _open(recipe, overrides)
    settings = loaded.registry
    if dry_run:
        decision = decide(registry, kind, version, settings, alias=to, measure=golden_figures)
        passed, gates, told = decision.passed, decision.as_dict()["gates"], decision.as_dict()
        words = f"would {'move' if passed else 'not move'}: {to} stands at version {decision.previous or 'none'}"
    else:
        record = move(registry, kind, version, settings, alias=to, measure=golden_figures, why=why, override=override)
        passed, gates, told = bool(record.entry.versions), record.entry.gates, record.as_dict()
        words = sentence(record)
    if as_json:
        print(json.dumps(told))
    else:
        _show_gates(gates)
        OUT.print(words, soft_wrap=True)
    if not passed:
        raise SystemExit(1)


@app.command(epilog="Example: coldstart rollback adaptor --why 'complaints since noon'")
def rollback(
    kind: Kind,
    to: Annotated[
        int | None, typer.Option(min=1, help="A former champion; default the one before the present.")
    ] = None,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Return to an earlier champion release, bit for bit."""
    from coldstart.registry import rollback as back

    registry, _ = _open(recipe, overrides)
    _tell(back(registry, kind, to=to, why=why), as_json=as_json)


@app.command(epilog="Example: coldstart withdraw --why 'slower than the champion'")
def withdraw(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Withdraw the challenger: a server that runs lets the champion answer everybody within seconds."""
    from coldstart.registry import withdraw as take_away

    registry, _ = _open(recipe, overrides)
    _tell(take_away(registry, why=why), as_json=as_json)


@app.command(epilog="Example: coldstart history --recipe demo")
def history(recipe: RecipeName = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show every decision, verify that none was changed, and say where the aliases stand; exit code 1 if one was."""
    from coldstart.registry import look
    from coldstart.registry.standing import ALIASES

    registry, _ = _open(recipe, overrides)
    chain = registry.ledger.read()
    standings = [] if chain.problem else [look(registry, alias, chain) for alias in ALIASES]
    if as_json:
        records = [record.as_dict() for record in chain.records]
        standing = [one.as_dict() for one in standings]
        print(json.dumps({"records": records, "problem": chain.problem, "standing": standing}))
    else:
        table = _table("record", "time", "who", "what", "why")
        for record in chain.records:
            entry = record.entry
            table.add_row(str(record.number), entry.time[:19], entry.who, _what(record.as_dict()), entry.why)
        OUT.print(table)
        for one in standings:
            OUT.print(one.sentence(), soft_wrap=True)
        verified = f"{len(chain.records)} records, none changed" if not chain.problem else f"[red]{chain.problem}[/]"
        OUT.print(verified, soft_wrap=True)
    if chain.problem:
        raise SystemExit(1)


@app.command(epilog="Example: coldstart gc --keep 5 --dry-run")
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each model that stay.")] = 5,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Why = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete old versions and their artifacts, but none that an alias, a lineage or a rollback needs."""
    from coldstart.registry.housekeeping import collect

    registry, loaded = _open(recipe, overrides)
    gone = collect(registry, keep=keep, window=loaded.registry.rollback_window, dry_run=dry_run, why=why)
    if as_json:
        print(json.dumps({"deleted": gone, "dry_run": dry_run}))
        return
    for kind, versions in gone.items():
        numbers = ", ".join(str(number) for number in versions) or "none"
        OUT.print(f"{registry.model_name(kind)}: {'would delete' if dry_run else 'deleted'} {numbers}")


def _tell(record: "Record", *, as_json: bool) -> None:
    """A decision that was carried out."""
    from coldstart.registry import sentence

    if as_json:
        print(json.dumps(record.as_dict()))
    else:
        OUT.print(sentence(record), soft_wrap=True)


def _table(*names: str) -> Table:
    """Only the last column folds; on a narrow terminal the others must stay readable."""
    *firm, last = names
    return Table(*(Column(name, no_wrap=True) for name in firm), Column(last), box=None, padding=(0, 1, 0, 0))


def _show_gates(gates: list[dict[str, Any]]) -> None:
    table = _table("gate", "verdict", "figure")
    for gate in gates:
        table.add_row(gate["label"], _VERDICTS[gate["passed"]], gate["note"])
    OUT.print(table)


def _what(record: dict[str, Any]) -> str:
    if record["condemned"]:
        gone = "; ".join(
            f"{kind} {', '.join(map(str, numbers))}" for kind, numbers in record["condemned"].items() if numbers
        )
        return f"deleted {gone}"
    moved = f"{record['alias']} {record['previous'] or 'none'} -> {record['version'] or 'none'}"
    refused = ", ".join(gate["label"] for gate in record["gates"] if gate["passed"] is False)
    notes = f" by {refused}" if refused and not record["override"] else ""
    notes += f" [bold red]OVERRIDING {refused}[/]" if record["override"] else ""
    notes += f" [dim](overtaken by record {record['overtaken']})[/]" if record["overtaken"] else ""
    return f"{record['action']} {moved}{notes}"


def _age(created: float) -> str:
    seconds = max(time.time() - created, 0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
