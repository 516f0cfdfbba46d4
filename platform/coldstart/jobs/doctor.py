"""Doctor: asks every node of a cluster whether it can run a recipe, and says what to mend, without running it."""

import json

from rich.table import Table

from coldstart.config import load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.jobs.preflight import alive_nodes, as_json, find_problems
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments


def main() -> None:
    """Runs it as a program; the exit code is 1 if something was found."""
    arguments = recipe_arguments("doctor", __doc__).parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        with ray_cluster(recipe, arguments.address, check=False):
            nodes = [node["NodeManagerHostname"] for node in alive_nodes()]
            findings = find_problems(recipe)
    if arguments.json:
        print(json.dumps({"nodes": nodes, "findings": as_json(findings)}))
    elif findings:
        table = Table("node", "problem", "what to do", box=None, padding=(0, 2, 0, 0))
        for finding in findings:
            table.add_row(finding.node, finding.what, finding.fix)
        CONSOLE.print(table)
    else:
        CONSOLE.print(f"{len(nodes)} nodes can run recipe '{recipe.name}'")
    if findings:
        raise SystemExit(1)
