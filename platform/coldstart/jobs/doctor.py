"""Doctor: asks every node of a cluster whether it can run a recipe, and says what to mend, without running it."""

import json

from rich.table import Table

from coldstart.config import Recipe, load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.jobs.preflight import alive_nodes, find_problems
from coldstart.jobs.preflight import as_json as findings_as_json
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments


def main() -> None:
    """Runs it as a program; the exit code is 1 if something was found."""
    arguments = recipe_arguments("doctor", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        examine(recipe, arguments.address, as_json=arguments.json)


def examine(recipe: Recipe, address: str | None, *, as_json: bool) -> None:
    """Prints what must be mended before a cluster can run a recipe.

    Args:
        recipe: The recipe.
        address: `host:port` of a running cluster; `None` reads `RAY_ADDRESS`, and without it a local Ray is started.
        as_json: Whether to print one JSON object instead of a table.

    Raises:
        SystemExit: 1, if something was found.
        UserError: no cluster answers at the address.
    """
    CONSOLE.stderr = as_json
    with ray_cluster(recipe, address, check=False):
        nodes = [node["NodeManagerHostname"] for node in alive_nodes()]
        findings = find_problems(recipe)
    if as_json:
        print(json.dumps({"nodes": nodes, "findings": findings_as_json(findings)}))
    elif findings:
        table = Table("node", "problem", "what to do", box=None, padding=(0, 2, 0, 0))
        for finding in findings:
            table.add_row(finding.node, finding.what, finding.fix)
        CONSOLE.print(table)
    else:
        CONSOLE.print(f"recipe '{recipe.name}' can run on {', '.join(sorted(nodes))}")
    if findings:
        raise SystemExit(1)
