"""Serves the champion of a project over HTTP, beside it the challenger, and whatever is promoted to either later."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError

from coldstart.config import Recipe, UserError, load_recipe
from coldstart.evaluation.metrics import sigmoid
from coldstart.registry import Registry, Release, look, resolve
from coldstart.registry.comparison import SERVED
from coldstart.registry.standing import CHALLENGER, CHAMPION, State
from coldstart.registry.watch import Releases, promotions
from coldstart.serving import check_port, deploy, shutdown
from coldstart.serving.figures import PROBABILITIES, binned
from coldstart.serving.heaps import tend
from coldstart.serving.tokens import check_tokens
from workloads.console import CONSOLE
from workloads.job import find_recipe, ray_cluster, readable_errors, recipe_arguments
from workloads.refresh import renew


@contextmanager
def serving(recipe: Recipe, alias: str = CHAMPION) -> Iterator[str]:
    """Deploys the release an alias names, on the Ray that is running; yields the URL, takes it down afterwards."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    with _deployed(recipe, registry, {alias: _standing(registry, alias)}) as url:
        yield url


def serve_forever(recipe: Recipe, *, alias: str = CHAMPION, address: str | None = None) -> None:
    """Serves until interrupted whatever release stands at an alias, and beside the champion the challenger."""
    tend()
    with readable_errors():
        check_port(recipe.serving)
        check_tokens(recipe.serving)
        registry = Registry(recipe.tracking_uri, recipe.project)
    with readable_errors(), ray_cluster(recipe, address):
        served: Releases = {alias: _standing(registry, alias)}
        if alias == CHAMPION and recipe.serving.challenger.share:
            served[CHALLENGER] = _challenger(registry)
        with _deployed(recipe, registry, served) as url:
            CONSOLE.print(f"serving {recipe.project}@{alias} at {url}  (API: {url}/docs, stop: Ctrl-C)")
            _follow(recipe, registry, served)


@contextmanager
def _deployed(recipe: Recipe, registry: Registry, served: Releases) -> Iterator[str]:
    url = _deploy(recipe, registry, served)
    try:
        yield url
    finally:
        shutdown()


def _deploy(recipe: Recipe, registry: Registry, served: Releases, *, beside: Release | None = None) -> str:
    release, challenger = (*served.values(), None)[:2]
    assert release is not None
    arms = [arm for arm in (release, challenger) if arm]
    url = deploy(
        release,
        recipe.serving,
        recipe.run_dir / "store",
        data=recipe.data,
        beside=beside,
        challenger=challenger,
        references={arm.name: scores for arm in arms if (scores := _evaluated(registry, arm)) is not None},
        dataset=recipe.run_dir / "dataset",
    )
    Thread(target=_renew, args=(recipe, arms), daemon=True, name="renew").start()
    return url


def _renew(recipe: Recipe, arms: list[Release]) -> None:
    """Reads anew, beside the requests, what was published under other releases; until then it ranks as unknown."""
    for release in arms:
        try:
            if count := renew(recipe, release):
                CONSOLE.print(f"read {count} published items anew for {release.name}")
        except (UserError, RayError) as error:
            _note(f"published items are not yet read anew for {release.name}: {error}; `coldstart run refresh` does it")


def _evaluated(registry: Registry, release: Release) -> NDArray[np.float64] | None:
    """Click probabilities a release gave when it was evaluated, in the bins that serving counts in."""
    rows = registry.scored_rows(release.versions["adaptor"], release.dataset)
    return None if rows is None else binned(sigmoid(rows[SERVED].to_numpy()), PROBABILITIES)


def _follow(recipe: Recipe, registry: Registry, served: Releases) -> None:
    # Requests go on meanwhile; a release that does not come up is not served.
    for found in promotions(registry, served, every=recipe.serving.poll_s, warn=_note):
        (before, *_), (release, *rest) = served.values(), found.values()
        try:
            _deploy(recipe, registry, found, beside=before)
        except UserError as error:
            _note(f"{error}; {before.name if before else 'what stood before'} is served on")
            continue
        served = found
        assert release is not None
        beside = "".join(f", challenged by {other.name}" for other in rest if other and other.name != release.name)
        CONSOLE.print(f"serving {release.name}{beside}")


def _challenger(registry: Registry) -> Release | None:
    """The challenger, if one stands that can be used; the champion is served in any case."""
    try:
        return resolve(registry, CHALLENGER) if look(registry, CHALLENGER).version else None
    except UserError as error:
        _note(f"{error}; served without a challenger")
        return None


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
