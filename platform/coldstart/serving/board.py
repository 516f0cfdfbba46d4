"""The board that gateways share: each tells its figures there once a second and reads those of the others.

It is one small actor, and nothing hangs on it. While it is away, every gateway goes by its own figures; when it is
back, the gateways tell it again what it has forgotten.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from coldstart.serving.figures import Figures, added
from coldstart.serving.trial import Trial

LOG = logging.getLogger("ray.serve")

Facts = dict[str, Any]
"""What was found out once, by `kind|release` or `kind|trial`: how a trial ended, what scores are compared with."""

_NAME, _NAMESPACE = "coldstart-board", "serve"
_FORGOTTEN_S = 10.0
"""Figures of a gateway that has not been heard of for so long are those of one that is gone."""
_LETTERS = 20_000
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Told:
    """What a gateway tells.

    Attributes:
        who: The gateway.
        figures: Its figures, whole, not what is new of them.
        facts: All it knows.
        letters: New feedback that it cannot place, for the others.
        seen: Board and number of the last letter it has read.
    """

    who: str
    figures: Figures
    facts: Facts = field(default_factory=dict)
    letters: list[Any] = field(default_factory=list)
    seen: tuple[str, int] = ("", 0)


@dataclass(frozen=True)
class Heard:
    """What it hears.

    Attributes:
        figures: Of all gateways, added up.
        gateways: How many they are.
        facts: Of all.
        letters: Of the others, those it has not read.
        seen: To be told next time.
    """

    figures: Figures
    gateways: int
    facts: Facts
    letters: list[Any]
    seen: tuple[str, int]


class Board:
    """What hangs on the board; knows no Ray."""

    def __init__(self) -> None:
        self._name = uuid4().hex
        self._figures: dict[str, tuple[float, Figures]] = {}
        self._facts: Facts = {}
        self._letters: deque[tuple[str, Any]] = deque(maxlen=_LETTERS)
        self._written = 0
        self._trial: Trial | None = None

    def exchange(self, told: Told) -> Heard:
        """Takes what one gateway tells, and answers what all have told."""
        now = time.monotonic()
        self._figures[told.who] = now, told.figures
        self._figures = {who: (at, own) for who, (at, own) in self._figures.items() if at > now - _FORGOTTEN_S}
        self._facts = told.facts | self._facts
        board, read = told.seen
        unread = self._written - read if board == self._name else 0
        news = list(self._letters)[-unread:] if unread else []
        self._letters.extend((told.who, letter) for letter in told.letters)
        self._written += len(told.letters)
        return Heard(
            figures=added({who: own for who, (_, own) in self._figures.items()}),
            gateways=len(self._figures),
            facts=self._facts,
            letters=[letter for who, letter in news if who != told.who],
            seen=(self._name, self._written),
        )

    def learn(self, facts: Facts) -> None:
        """Takes facts that no gateway could find out."""
        self._facts = self._facts | facts

    def open_trial(self, champion: str, challenger: str | None) -> Trial | None:
        """A new trial, or the present one if the same challenger is still in it; facts of what left are forgotten."""
        if challenger is None:
            self._trial = None
        else:
            same = self._trial is not None and self._trial.challenger == challenger
            number = self._trial.number if self._trial and same else uuid4().hex[:12]
            self._trial = Trial(number, champion, challenger)
        standing = {champion, challenger, self._trial and self._trial.number}
        self._facts = {name: fact for name, fact in self._facts.items() if name.split("|")[1] in standing}
        return self._trial


def board_of_gateways() -> Any:
    """The board of the running Ray, made if there is none: on every machine it is the same."""
    made = ray.remote(Board).options(
        name=_NAME,
        namespace=_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=3,
        num_cpus=0,
    )
    return made.remote()


def take_down() -> None:
    """Ends the board, if there is one."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(_NAME, namespace=_NAMESPACE))


class Line:
    """A gateway's line to the board.

    Args:
        board: As `board_of_gateways` gave it; `None`: there is none, and the gateway is told its own figures.
    """

    def __init__(self, board: Any | None) -> None:
        self._board = board
        self._who = uuid4().hex
        self._seen: tuple[str, int] = ("", 0)
        self._cut = False

    async def exchange(self, figures: Figures, facts: Facts, letters: list[Any]) -> Heard:
        """Tells and hears; of a board that does not answer, what the gateway knows itself."""
        told = Told(self._who, figures, facts, letters, self._seen)
        if self._board is not None:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    heard: Heard = await self._board.exchange.remote(told)
            except (RayError, TimeoutError) as error:
                self._say(cut=True, why=str(error).splitlines()[0] if str(error) else "it does not answer")
            else:
                self._say(cut=False)
                self._seen = heard.seen
                return heard
        return Heard(figures, 1, facts, [], self._seen)

    def _say(self, *, cut: bool, why: str = "") -> None:
        if cut != self._cut:
            LOG.warning("the board is %s", f"away, every gateway goes by its own figures: {why}" if cut else "back")
        self._cut = cut


def open_trial(board: Any, champion: str, challenger: str | None, facts: Mapping[str, Any]) -> Trial | None:
    """Asks the board for the trial of a challenger, and tells it facts that no gateway could find out."""
    learn(board, facts)
    trial: Trial | None = ray.get(board.open_trial.remote(champion, challenger), timeout=_PATIENCE_S)
    return trial


def learn(board: Any, facts: Mapping[str, Any]) -> None:
    """Tells the board facts that no gateway could find out."""
    ray.get(board.learn.remote(dict(facts)), timeout=_PATIENCE_S)
