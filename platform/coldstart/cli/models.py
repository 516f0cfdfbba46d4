"""Commands for registered models: list and trace versions, promote, roll back, show the history, delete."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.tree import Tree

from coldstart.cli.app import OUT
from coldstart.cli.project import Project, project_command

if TYPE_CHECKING:
    from coldstart.registry.promotion_log import LoggedEvent

Kind = Annotated[str, typer.Argument(help="Kind of the model: scorer (its release moves with it).")]
Reason = Annotated[str, typer.Option(help="Reason, kept in the promotion log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen and change nothing.")]
_METRICS = {"cold GAUC": "cold_gauc", "minus OOV": "cold_gauc_item", "all GAUC": "all_gauc"}
_OUTCOMES = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[yellow]not compared[/]"}


@project_command(example="coldstart models --recipe demo")
def models(project: Project) -> None:
    """List the registered versions of a project: aliases, ages, metrics, and what they were made from."""
    rows: list[dict[str, Any]] = project.registry.versions()
    if project.print_json(rows):
        return
    table = _table("model", "version", "alias", "age", *_METRICS, "made from")
    for row in rows:
        values = (row["metrics"].get(name) for name in _METRICS.values())
        shown = ("-" if value is None else f"{value:.4f}" for value in values)
        made_from = " ".join(f"{kind} {version}" for kind, version in row["upstream"].items())
        made_from = f"{made_from} dataset {str(row['dataset'])[:8]}".strip()
        aliases = " ".join(row["aliases"])
        table.add_row(row["name"], str(row["version"]), aliases, _age(row["created"]), *shown, made_from)
    OUT.print(table)


@project_command(example="coldstart lineage scorer@champion")
def lineage(
    project: Project, reference: Annotated[str, typer.Argument(help="A version: scorer@champion or ranker/3.")]
) -> None:
    """Show what a version was made from, down to the fingerprint of the dataset."""
    from coldstart.registry.lineage import lineage as trace

    nodes = trace(project.registry, reference)
    if project.print_json([node.as_dict() for node in nodes]):
        return
    tree = branch = None
    for node in nodes:
        name = node.kind
        if node.version is not None:
            name = f"{project.registry.model_name(node.kind)} version {node.version}"
        state = "[red]deleted[/]" if node.missing else f"[dim]{str(node.fingerprint)[:12]}[/]"
        age = "" if node.created is None else f"  registered {_age(node.created)} ago"
        line = f"{name}  {state}{age}"
        branch = branch.add(line) if branch else (tree := Tree(line))
    OUT.print(tree, soft_wrap=True)


@project_command(example="coldstart promote scorer 1 --to champion")
def promote(
    project: Project,
    kind: Kind,
    version: Annotated[int, typer.Argument(min=1)],
    to: Annotated[str, typer.Option(help="Alias: champion or challenger.")] = "champion",
    reason: Reason = "",
    override: Annotated[
        bool, typer.Option("--override", help="Promote although gates fail; needs --reason, the history shows it.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Promote a version if it passes the gates; exit code 1 if a gate fails."""
    from coldstart.registry import describe_event, plan_promotion
    from coldstart.registry import promote as promote_version
    from coldstart.registry.promotion import check_promotable
    from coldstart.serving.core.golden_requests import golden_metrics

    registry, settings = project.registry, project.recipe.registry
    check_promotable(registry, kind)
    if dry_run:
        plan = plan_promotion(registry, version, settings, alias=to, measure=golden_metrics)
        passed, result = plan.passed, plan.as_dict()
        current = f"version {plan.previous}" if plan.previous else "not set"
        message = f"dry run: {to} would {'move' if passed else 'not move'}; it is {current}"
    else:
        logged = promote_version(
            registry, version, settings, alias=to, measure=golden_metrics, reason=reason, override=override
        )
        passed, result, message = bool(logged.event.versions), logged.as_dict(), describe_event(logged)
    if not project.print_json(result):
        _print_gates(result["gates"])
        OUT.print(message, soft_wrap=True)
    if not passed:
        raise SystemExit(1)


@project_command(example="coldstart rollback scorer --reason 'complaints since noon'")
def rollback(
    project: Project,
    kind: Kind,
    to: Annotated[
        int | None, typer.Option(min=1, help="An earlier champion version; default: the one before the current.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Return to an earlier champion release, byte for byte."""
    from coldstart.registry import rollback as roll_back
    from coldstart.registry.promotion import check_promotable

    check_promotable(project.registry, kind)
    _print_event(project, roll_back(project.registry, to=to, reason=reason))


@project_command("stop-challenger", example="coldstart stop-challenger --reason 'slower than the champion'")
def stop_challenger(project: Project, reason: Reason = "") -> None:
    """Stop the challenger: within seconds, a running server routes all its traffic to the champion."""
    from coldstart.registry import stop_challenger as stop

    _print_event(project, stop(project.registry, reason=reason))


@project_command(example="coldstart history --recipe demo")
def history(project: Project) -> None:
    """Show and verify the promotion log, and show the aliases; exit code 1 if the log was changed."""
    from coldstart.registry import read_alias_state
    from coldstart.registry.alias_state import ALIASES

    registry = project.registry
    snapshot = registry.promotion_log.read()
    states = [] if snapshot.problem else [read_alias_state(registry, alias, snapshot) for alias in ALIASES]
    result = {
        "events": [logged.as_dict() for logged in snapshot.events],
        "problem": snapshot.problem,
        "aliases": [state.as_dict() for state in states],
    }
    if not project.print_json(result):
        table = _table("event", "time", "actor", "action", "reason")
        for logged in snapshot.events:
            event = logged.event
            table.add_row(str(logged.number), event.time[:19], event.actor, _action(logged.as_dict()), event.reason)
        OUT.print(table)
        for state in states:
            OUT.print(state.describe(), soft_wrap=True)
        verified = f"{len(snapshot.events)} events verified: none was changed"
        OUT.print(f"[red]{snapshot.problem}[/]" if snapshot.problem else verified, soft_wrap=True)
    if snapshot.problem:
        raise SystemExit(1)


@project_command(example="coldstart gc --keep 5 --dry-run")
def gc(
    project: Project,
    keep: Annotated[int, typer.Option(min=1, help="Number of newest versions of each model to keep.")] = 5,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Delete old versions and their artifacts, but none that an alias, a lineage or a rollback needs."""
    from coldstart.registry.gc import delete_old_versions

    window = project.recipe.registry.rollback_window
    deleted = delete_old_versions(project.registry, keep=keep, rollback_window=window, dry_run=dry_run, reason=reason)
    if project.print_json({"deleted": deleted, "dry_run": dry_run}):
        return
    for kind, versions in deleted.items():
        numbers = ", ".join(str(number) for number in versions) or "none"
        OUT.print(f"{project.registry.model_name(kind)}: {'would delete' if dry_run else 'deleted'} {numbers}")


def _print_event(project: Project, logged: "LoggedEvent") -> None:
    from coldstart.registry import describe_event

    if not project.print_json(logged.as_dict()):
        OUT.print(describe_event(logged), soft_wrap=True)


def _table(*names: str) -> Table:
    """Wraps only the last column, so that the others stay readable on a narrow terminal."""
    *fixed, last = names
    return Table(*(Column(name, no_wrap=True) for name in fixed), Column(last), box=None, padding=(0, 1, 0, 0))


def _print_gates(gates: list[dict[str, Any]]) -> None:
    table = _table("gate", "result", "note")
    for gate in gates:
        table.add_row(gate["name"], _OUTCOMES[gate["passed"]], gate["note"])
    OUT.print(table)


def _action(logged: dict[str, Any]) -> str:
    if logged["deleted_versions"]:
        deleted = "; ".join(
            f"{kind} {', '.join(map(str, numbers))}" for kind, numbers in logged["deleted_versions"].items() if numbers
        )
        return f"deleted {deleted}"
    move = f"{logged['alias']} {logged['previous'] or 'none'} -> {logged['version'] or 'none'}"
    failed = ", ".join(gate["name"] for gate in logged["gates"] if gate["passed"] is False)
    notes = f", failed: {failed}" if failed and not logged["override"] else ""
    notes += f" [bold red]OVERRIDING {failed}[/]" if logged["override"] else ""
    notes += f" [dim](superseded by event {logged['superseded_by']})[/]" if logged["superseded_by"] else ""
    return f"{logged['action']} {move}{notes}"


def _age(created: float) -> str:
    seconds = max(time.time() - created, 0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
