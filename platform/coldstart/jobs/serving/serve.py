"""Serves the champion of a project over HTTP, optionally with a challenger, and follows promotions and rollbacks.

Exit codes: 0 after SIGTERM, 130 after Ctrl-C, 2 if the release cannot be served.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError

from coldstart.config import Recipe, UserError, load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.jobs.progress import CONSOLE, Steps, shown_messages
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments
from coldstart.jobs.serving.refresh import reencode_published
from coldstart.methods.base import SCORER
from coldstart.metrics.clicks import sigmoid
from coldstart.registry import Registry, Release, read_alias_state, resolve
from coldstart.registry.alias_state import CHALLENGER, CHAMPION, AliasStatus
from coldstart.registry.alias_watcher import ReleasesByAlias, watch_aliases
from coldstart.registry.scored_rows import RELEASE_LOGIT, download_scored_rows
from coldstart.serving.api.tokens import check_tokens
from coldstart.serving.core.malloc import limit_heap_growth
from coldstart.serving.deployment.application import GatewayInputs, check_port, deploy, shutdown
from coldstart.serving.monitoring.window_stats import SCORE_EDGES, bin_counts

DEPLOYMENT = "coldstart.serving.deployment.application"
"""Logger whose messages are the steps of a deployment."""


@contextmanager
def serving(recipe: Recipe, alias: str = CHAMPION) -> Iterator[str]:
    """Deploys the release of an alias on the running Ray cluster; yields its URL and shuts it down afterwards."""
    registry = Registry(recipe.tracking_uri, recipe.project)
    with _deployed(recipe, registry, {alias: _resolve_alias(registry, alias)}) as url:
        yield url


def serve_forever(
    recipe: Recipe,
    *,
    alias: str = CHAMPION,
    address: str | None = None,
    as_json: bool = False,
    steps: Steps | None = None,
) -> None:
    """Serves the release of an alias, and with the champion the challenger, until SIGTERM or Ctrl-C.

    Args:
        recipe: Names the project and has the `serving` section.
        alias: Alias whose release is served.
        address: `host:port` of a running Ray cluster; `None` starts a local one.
        as_json: Print one line of JSON on stdout when the server is ready, and no progress.
        steps: Prints the progress on stderr.

    Raises:
        SystemExit: 0 after SIGTERM, 130 after Ctrl-C, 2 if the release cannot be served.
    """
    steps = steps or Steps("serve", quiet=as_json)
    if as_json:
        CONSOLE.stderr = True
    limit_heap_growth()
    with readable_errors(), _exit_codes() as handle_sigterm, shown_messages(DEPLOYMENT, steps):
        check_port(recipe.serving)
        check_tokens(recipe.serving)
        registry = Registry(recipe.tracking_uri, recipe.project)
        steps("connecting to Ray" if address else "starting Ray")
        with ray_cluster(recipe, address, check=False):
            handle_sigterm()  # `ray.init` has replaced the handler.
            steps(f"loading the release {recipe.project}@{alias} from MLflow")
            served: ReleasesByAlias = {alias: _resolve_alias(registry, alias)}
            if alias == CHAMPION and recipe.serving.challenger.traffic_fraction:
                served[CHALLENGER] = _resolve_challenger(registry)
            with _deployed(recipe, registry, served) as url:
                steps(f"ready at {url}")
                if as_json:
                    print(json.dumps({"project": recipe.project, "alias": alias, "url": url}), flush=True)
                else:
                    CONSOLE.print(f"serving {recipe.project}@{alias} at {url}  (API: {url}/docs, stop: Ctrl-C)")
                try:
                    _follow_promotions(recipe, registry, served)
                finally:
                    steps("stopping")


@contextmanager
def _exit_codes() -> Iterator[Callable[[], None]]:
    """Turns SIGTERM into exit code 0 and Ctrl-C into 130, so that the open contexts are closed first.

    Yields:
        A function that installs the handler of SIGTERM. It must be called again after `ray.init`: Ray's core installs
        a handler that prints a native stack trace.
    """

    def exit_(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A second signal must not interrupt the shutdown.
        raise SystemExit(0)

    def handle_sigterm() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, exit_)

    before = signal.getsignal(signal.SIGTERM)
    handle_sigterm()
    try:
        yield handle_sigterm
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _deployed(recipe: Recipe, registry: Registry, served: ReleasesByAlias) -> Iterator[str]:
    url = _deploy(recipe, registry, served)
    try:
        yield url
    finally:
        shutdown()


def _deploy(recipe: Recipe, registry: Registry, served: ReleasesByAlias, *, previous: Release | None = None) -> str:
    release, challenger = (*served.values(), None)[:2]
    assert release is not None
    releases = [one for one in (release, challenger) if one]
    scores = {one.name: counts for one in releases if (counts := _evaluation_scores(registry, one)) is not None}
    url = deploy(
        release,
        recipe.serving,
        recipe.run_dir / "store",
        inputs=GatewayInputs(recipe.data, scores, recipe.run_dir / "dataset"),
        previous=previous,
        challenger=challenger,
    )
    threading.Thread(target=_refresh_items, args=(recipe, releases), daemon=True, name="refresh").start()
    return url


def _refresh_items(recipe: Recipe, releases: list[Release]) -> None:
    """Encodes, in the background, items that were published under other releases; until then they rank as unknown."""
    for release in releases:
        try:
            if count := reencode_published(recipe, release):
                CONSOLE.print(f"encoded {count} published items again for {release.name}")
        except (UserError, RayError) as error:
            _note(
                f"published items are not encoded for {release.name} yet: {error}; run `coldstart run refresh` to "
                "encode them"
            )


def _evaluation_scores(registry: Registry, release: Release) -> NDArray[np.float64] | None:
    """Counts of the click probabilities of a release's evaluation, in the bins of serving."""
    rows = download_scored_rows(registry, release.versions[SCORER], release.dataset)
    return None if rows is None else bin_counts(sigmoid(rows[RELEASE_LOGIT].to_numpy()), SCORE_EDGES)


def _follow_promotions(recipe: Recipe, registry: Registry, served: ReleasesByAlias) -> None:
    # The old release serves requests until the new one is up; if the new one does not start, the old one stays.
    for promoted in watch_aliases(registry, served, every=recipe.serving.poll_interval_s, warn=_note):
        (previous, *_), (release, *rest) = served.values(), promoted.values()
        try:
            _deploy(recipe, registry, promoted, previous=previous)
        except UserError as error:
            _note(f"{error}; {previous.name if previous else 'the previous release'} stays served")
            continue
        served = promoted
        assert release is not None
        others = "".join(f", challenger {other.name}" for other in rest if other and other.name != release.name)
        CONSOLE.print(f"serving {release.name}{others}")


def _resolve_challenger(registry: Registry) -> Release | None:
    """The challenger's release, if there is a usable one; the champion is served in any case."""
    try:
        return resolve(registry, CHALLENGER) if read_alias_state(registry, CHALLENGER).version else None
    except UserError as error:
        _note(f"{error}; no challenger is served")
        return None


def _resolve_alias(registry: Registry, alias: str) -> Release:
    state = read_alias_state(registry, alias)
    if state.status is AliasStatus.MANUAL:
        _note(state.describe())
    return resolve(registry, alias)


def _note(message: str) -> None:
    CONSOLE.print(f"[yellow]note[/]  {message}", soft_wrap=True)


def main() -> None:
    """Runs the server as a program."""
    arguments = recipe_arguments("serve", __doc__).parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    serve_forever(recipe, address=arguments.address, as_json=arguments.json)
