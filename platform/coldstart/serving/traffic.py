"""Which release answers: the champion, or for the users of a trial the challenger.

Users are drawn by a keyed hash of their id, so a user meets the same release on every gateway. A request is answered by
one release whole: where the challenger fails or takes too long, the champion answers anew, so that a bad challenger
costs its users time and never an answer. Gateways judge the trial once a second, by the figures of all of them, and a
gateway that ends it tells the others through the board: within about a second no gateway asks the challenger any more.
An ended trial stays ended until another challenger comes, or the same one is taken down and put up again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from coldstart.config.recipe import Serving
from coldstart.serving.arm import Arm
from coldstart.serving.board import Facts, Heard, Line
from coldstart.serving.call import RankCall
from coldstart.serving.errors import ApiError
from coldstart.serving.meters import show
from coldstart.serving.request_id import Incoming, incoming
from coldstart.serving.schemas import RankAnswer, ReleaseAnswer, TrialAnswer
from coldstart.serving.summary import summarise
from coldstart.serving.trial import Abort, Draw, Trial, judge
from coldstart.serving.watch import Ranked, Role, Shadowed, Watch
from coldstart.serving.watch_answers import WatchAnswer

LOG = logging.getLogger("ray.serve")
_EVERY_S = 1.0
_SHADOWS = 32
"""Requests of one gateway that a challenger may score unseen at the same time; it is not asked about more."""


class Traffic:
    """The arms of one gateway.

    Args:
        champion: Answers all who are not in the trial.
        challenger: The trial's.
        trial: `None` without a challenger.
        settings: The recipe's section.
        watch: Told of everything.
        line: To the board.
    """

    def __init__(
        self,
        champion: Arm,
        challenger: Arm | None,
        trial: Trial | None,
        settings: Serving,
        watch: Watch,
        line: Line,
    ) -> None:
        self.champion, self.challenger, self.trial, self.watch = champion, challenger, trial, watch
        self._limits, self._first_s, self._line = settings.challenger, settings.watch.first_s, line
        self._draw = Draw(trial.challenger, self._limits) if trial else None
        self._facts: Facts = {}
        self._heard = Heard({}, 1, {}, [], ("", 0))
        self._shadows: set[asyncio.Task[None]] = set()

    @property
    def abort(self) -> Abort | None:
        """How the trial ended; `None` while it lasts."""
        return self._facts.get(f"abort|{self.trial.number}") if self.trial else None

    @property
    def release(self) -> ReleaseAnswer:
        """What is served."""
        if self.challenger is None:
            return self.champion.release
        abort, other = self.abort, self.challenger.release
        trial = TrialAnswer(
            release=other.release,
            versions=other.versions,
            state="aborted" if abort else "shadow" if self._limits.shadow else "answering",
            share=self._limits.share,
            reason=abort.reason if abort else None,
            aborted_at=abort.at if abort else None,
        )
        return self.champion.release.model_copy(update={"challenger": trial})

    async def rank(self, call: RankCall) -> RankAnswer:
        """Scores the candidates of one user with one release."""
        came, user = incoming(), call.user_id
        self.watch.stage("parse", time.perf_counter() - came.arrived)
        self.watch.in_flight += 1
        try:
            drawn = self._draw is not None and user is not None and self.abort is None and self._draw.takes(user)
            if not drawn or self.challenger is None:
                return await self._answer(call, came, judged=user is not None and not self._limits.shadow)
            if not self._limits.shadow:
                return await self._try(self.challenger, call, came)
            answer = await self._answer(call, came, judged=True)
            self._score_unseen(self.challenger, call, came, answer)
            return answer
        finally:
            self.watch.in_flight -= 1

    async def _answer(self, call: RankCall, came: Incoming, *, judged: bool) -> RankAnswer:
        """The champion's answer."""
        began = time.perf_counter()
        try:
            answer = await self.champion.rank(call)
        except Exception as error:
            outcome = "refused" if _of_client(error) else "failed"
            self._note("champion", self.champion, outcome, began, judged, came, call)
            raise
        self._note("champion", self.champion, "ok", began, judged, came, call, answer)
        return answer

    async def _try(self, challenger: Arm, call: RankCall, came: Incoming) -> RankAnswer:
        """The challenger's answer, or the champion's where it has none."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await challenger.rank(call)
        except Exception as error:
            seconds = time.perf_counter() - began
            LOG.debug("%s did not answer", challenger.release.release, exc_info=error)
        else:
            self._note("challenger", challenger, "ok", began, True, came, call, answer)
            return answer
        outcome = "failed"
        try:
            self.watch.meters.fallbacks.inc()
            return await self._answer(call, came, judged=False)
        except ApiError as error:
            # What the champion refuses too is the client's fault.
            outcome = "refused" if _of_client(error) else "failed"
            raise
        finally:
            self._note("challenger", challenger, outcome, time.perf_counter() - seconds, True, came, call)

    def _score_unseen(self, challenger: Arm, call: RankCall, came: Incoming, answer: RankAnswer) -> None:
        if len(self._shadows) >= _SHADOWS:
            self.watch.skipped(challenger.release.release)
            return
        task = asyncio.create_task(self._shadow(challenger, call, came, answer))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, challenger: Arm, call: RankCall, came: Incoming, answer: RankAnswer) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                unseen = await challenger.rank(call)
        except Exception as error:
            LOG.debug("%s did not answer unseen", challenger.release.release, exc_info=error)
            self._note("challenger", challenger, "failed", began, True, came, call)
            return
        self._note("challenger", challenger, "ok", began, True, came, call, unseen)
        self.watch.shadowed(Shadowed(challenger.release.release, answer.scores, unseen.scores))

    def _note(
        self,
        role: Role,
        arm: Arm,
        outcome: str,
        began: float,
        judged: bool,
        came: Incoming,
        call: RankCall,
        answer: RankAnswer | None = None,
    ) -> None:
        seconds = time.perf_counter() - began
        note = Ranked(role, arm.release.release, seconds, outcome, judged, came)
        if answer is not None:
            items = call.candidate_ids
            note = note._replace(user_id=call.user_id, items=items, scores=answer.scores, vectors=answer.vectors)
        self.watch.ranked(note)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the gateway lives: tells, hears and judges once a second, the first time before it answers anybody."""
        await self.look()
        task = asyncio.create_task(self._look_again())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look()
            except Exception:
                LOG.exception("looking at the traffic failed; tried again in %g s", _EVERY_S)

    async def look(self) -> None:
        """Tells the board, hears from it, and ends the trial if it has to."""
        self.champion.take_in()
        strangers = self.watch.tally({name.split("|")[1] for name in self._facts if name.startswith("first|")})
        heard = await self._line.exchange(self.watch.figures(), self._facts, strangers)
        self.watch.hear(heard.letters)
        self._heard, self._facts = heard, self._facts | heard.facts
        self._fix_first()
        self._judge()
        show(self.watch.meters, self.summary(), self.release.challenger)

    def summary(self) -> WatchAnswer:
        """How serving does, over all gateways, as of a second ago."""
        return summarise(self._heard, self.champion.release.release, self.trial.challenger if self.trial else None)

    def _fix_first(self) -> None:
        if self.watch.age_s < self._first_s:
            return
        for arm in filter(None, (self.champion, self.challenger)):
            name = f"first|{arm.release.release}"
            if name not in self._facts and name in self._heard.figures:
                self._facts[name] = self._heard.figures[name]

    def _judge(self) -> None:
        if self.trial is None or self.abort is not None:
            return
        champion, challenger = (
            self._heard.figures.get(f"trial|{self.trial.number}|{role}") for role in ("champion", "challenger")
        )
        reason = judge(champion, challenger, self._limits)
        if reason is not None:
            self._facts[f"abort|{self.trial.number}"] = Abort(reason, time.time())
            LOG.warning("challenger %s is aborted: %s", self.trial.challenger, reason)


def _of_client(error: Exception) -> bool:
    """Whether a request failed by what it asked for."""
    return isinstance(error, ApiError) and error.status < 500 and error.status != 429
