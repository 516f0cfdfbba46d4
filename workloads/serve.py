"""Serves the champion release of a project over HTTP."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from coldstart.config import Recipe, load_recipe
from coldstart.registry import Registry, look, resolve
from coldstart.registry.standing import State
from coldstart.serving import check_port, deploy, shutdown
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments


@contextmanager
def serving(recipe: Recipe, alias: str = "champion") -> Iterator[str]:
    """Deploys the release an alias names, on the Ray that is running; yields the URL, takes it down afterwards."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    before = look(registry, alias)
    if before.state is State.BY_HAND:
        CONSOLE.print(f"[yellow]note[/]  {before.sentence()}", soft_wrap=True)
    release = resolve(registry, alias)
    url = deploy(release, recipe.serving, store_dir=recipe.run_dir / "store", data=recipe.data)
    try:
        yield url
    finally:
        shutdown()


def serve_forever(recipe: Recipe, *, alias: str = "champion", address: str | None = None) -> None:
    """Serves until interrupted."""
    with readable_errors():
        check_port(recipe.serving)
    with readable_errors(), ray_cluster(recipe, address), serving(recipe, alias) as url:
        CONSOLE.print(f"serving {recipe.project}@{alias} at {url}  (API: {url}/docs, stop: Ctrl-C)")
        while True:
            time.sleep(3600)


def main() -> None:
    """Runs the server as a program."""
    arguments = recipe_arguments("serve", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    serve_forever(recipe, address=arguments.address)


if __name__ == "__main__":
    main()
