"""Serves the champion release of a project over HTTP, and every release that is promoted to champion meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager

from coldstart.config import Recipe, UserError, load_recipe
from coldstart.registry import Registry, Release, look, resolve
from coldstart.registry.standing import State
from coldstart.registry.watch import promotions
from coldstart.serving import check_port, deploy, shutdown
from coldstart.serving.tokens import check_tokens
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments


@contextmanager
def serving(recipe: Recipe, alias: str = "champion") -> Iterator[str]:
    """Deploys the release an alias names, on the Ray that is running; yields the URL, takes it down afterwards."""
    release = _standing(Registry(recipe.tracking_uri, recipe.project), alias)
    with _deployed(recipe, release) as url:
        yield url


def serve_forever(recipe: Recipe, *, alias: str = "champion", address: str | None = None) -> None:
    """Serves until interrupted whatever release stands at an alias."""
    with readable_errors():
        check_port(recipe.serving)
        check_tokens(recipe.serving)
        registry = Registry(recipe.tracking_uri, recipe.project)
    with readable_errors(), ray_cluster(recipe, address):
        release = _standing(registry, alias)
        with _deployed(recipe, release) as url:
            CONSOLE.print(f"serving {recipe.project}@{alias} at {url}  (API: {url}/docs, stop: Ctrl-C)")
            _follow(recipe, registry, release, alias=alias)


@contextmanager
def _deployed(recipe: Recipe, release: Release) -> Iterator[str]:
    url = deploy(release, recipe.serving, recipe.run_dir / "store", data=recipe.data)
    try:
        yield url
    finally:
        shutdown()


def _follow(recipe: Recipe, registry: Registry, served: Release, *, alias: str = "champion") -> None:
    # Requests go on meanwhile; a release that does not come up is not served.
    for release in promotions(registry, alias, served, every=recipe.serving.poll_s, warn=_note):
        try:
            deploy(release, recipe.serving, recipe.run_dir / "store", data=recipe.data, beside=served)
        except UserError as error:
            _note(f"{error}; {served.name} is served on")
            continue
        served = release
        CONSOLE.print(f"serving {release.name}")


def _standing(registry: Registry, alias: str) -> Release:
    before = look(registry, alias)
    if before.state is State.BY_HAND:
        _note(before.sentence())
    return resolve(registry, alias)


def _note(message: str) -> None:
    CONSOLE.print(f"[yellow]note[/]  {message}", soft_wrap=True)


def main() -> None:
    """Runs the server as a program."""
    arguments = recipe_arguments("serve", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    serve_forever(recipe, address=arguments.address)


if __name__ == "__main__":
    main()
