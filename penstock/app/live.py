"""app: the stages on threads, requests awaited, time appended: a system that serves."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from penstock.app.counters import Tally
from penstock.app.limits import Rates
from penstock.app.parts import one_thread
from penstock.app.pressure import PRESSED
from penstock.app.sizes import Sizes
from penstock.app.system import System, clock_draft, served
from penstock.app.waiting import MOST_WAITING, Answers
from penstock.feature import Answer, asked, requests
from penstock.log import Appended
from penstock.record.codec import moment, pack, unpack
from penstock.record.decisions import DEAD, DeadLetter, Prediction, Vector, predictions, vectors
from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.record.record import Draft, Position
from penstock.serve.answers import TIMEOUT_S
from penstock.serve.carried import CARRIED
from penstock.serve.desk import Spoken, too_late

FOLD_PAUSE_S = 0.05
"""Between two turns of the stages that no request waits for: batches then, and the write lock is free."""

HURRIED_S, HURRY_PAUSE_S = 1.0, 0.05
"""For so long after a request that was answered at once, its stage has a turn on a thread only every so often."""

LOOK_PAUSE_S, LOOK_SHARE = 0.005, 0.1
"""While somebody is answered at once, so long passes between two looks at what others wrote, and they take at most so
much of the time: there is something new with every answer."""

HOLD_S = 0.2
"""So long a queue waits before it asks a model again that is away."""

THREADS = 16
"""Stages that answer have their turns on so many threads, each on its own where there are no more: none waits for
another's model then, and of more none waits for long."""

BEHIND = 19
"""The niceness of stages whose system answers in other processes."""
Admit = Callable[[int, Sequence[str]], AbstractContextManager[None]]
"""Within it a number of records may be appended for these stages; or it raises Unavailable."""


def _carrying(drafts: list[Draft]) -> list[Draft]:
    """Records with what the call carries for them."""
    headers = CARRIED.get()
    return [msgspec.structs.replace(one, headers=headers) for one in drafts] if headers else drafts


def _why(letter: DeadLetter) -> Refused:
    """A dead letter as an answer to whoever asked."""
    return Refused(
        letter.note, code=letter.code, where=letter.topic, hint="The request is on the log, as a dead letter."
    )


class Live:
    """A system on threads: some answer, one folds, one trains, time goes on. `now_ms` is the wall clock."""

    def __init__(
        self,
        system: System,
        now_ms: Callable[[], int],
        *,
        tick_s: float = 1.0,
        admit: Admit = lambda n, stages: nullcontext(),
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.system, self.now_ms, self.tick_s, self.admit = system, now_ms, tick_s, admit
        limits = {name: plan.pipeline.limits for name, plan in system.file.plans.items()}
        queues = {name: -(-one.queue // system.shares) for name, one in limits.items()}
        self.answers, self.tally, self.sizes = Answers(most_waiting, of_model=queues), Tally(), Sizes()
        self.rates = Rates(limits, system.shares, time.monotonic)
        system.told = self._tell
        system.parts.patience = self._hold
        system.parts.models.noted = lambda model, code: self.tally.add(
            "models_fell", {"model": model, "code": code}
        )
        system.parts.models.waiting = self._waiting
        system.parts.models.gone = lambda n: self.tally.add("models_unloaded", {}, n)
        self.stopping = threading.Event()
        system.stopped = self.stopping.is_set
        self.broken: str = ""
        self._hurried_s: dict[str, float] = {}  # by stage, when somebody was last answered at once
        self._tasks: set[asyncio.Task[None]] = set()
        self._looked_s: dict[str, float] = {}  # by stage, when it last had a turn
        self._watching, self._look_s = threading.Lock(), 0.0
        self._mark, self._numbers = secrets.token_hex(6), itertools.count()
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start answering, folding, training and ticking."""
        system = self.system
        turns: dict[str, Callable[[], None] | None] = {
            **{f"predict-{n}": self._predict for n in range(min(len(system.answers.names), THREADS))},
            "fold": self._fold if system.folds.names else None,
            "train": self._train if system.works else None,
            "tick": self._tick if system.works else None,
        }
        for name, turn in turns.items():
            if turn is None:
                continue
            thread = threading.Thread(
                target=self._loop, args=(name, turn), name=f"penstock-{name}", daemon=True
            )
            thread.start()
            self.threads.append(thread)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish what is under way, write the states, and end."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout_s)
        if not self.broken:
            self.system.save()
        self.system.close()

    def _loop(self, name: str, turn: Callable[[], None]) -> None:
        one_thread()
        if not self.system.answers.names:  # others answer, and come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)
        while not self.stopping.is_set():
            try:
                turn()
            except Unavailable as error:
                if error.code == "fenced":
                    return self.break_off(error)
                self.tally.add("turns_failed", {"turn": name, "code": error.code})
                self.stopping.wait(0.2)
            except BaseException as error:  # nothing may go on above a broken invariant: stop, say why
                return self.break_off(error)

    def break_off(self, error: BaseException) -> None:
        """Stop all that runs here, and say why."""
        self.broken = (
            str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}; see the notes."
        )
        traceback.print_exception(error)
        self.stopping.set()

    def _predict(self) -> None:
        turns = self.system.answers
        name = turns.take(self._is_due)
        if name is None:
            with self._watching:  # one of these threads watches the log, the others are behind it
                if not turns.waiting(self._is_due) and not self.stopping.is_set():
                    self._watch()
            return
        again = True
        try:
            self._looked_s[name] = time.monotonic()
            again = self.system.predict(self.system.own(name), self.sizes.look)
        finally:
            turns.give(name, again=again)

    def _watch(self) -> None:
        turns, since_s = self.system.answers, time.monotonic() - HURRIED_S
        hurried = sum(one_s > since_s for one_s in list(self._hurried_s.values()))
        if hurried == len(turns.names):  # who asks at once folds what there is by himself
            self.stopping.wait(HURRY_PAUSE_S)
        elif hurried:
            turns.rest(self._is_due, max(LOOK_PAUSE_S, self._look_s / LOOK_SHARE))
        else:
            self.system.log.wait(Position(n=turns.looked), 0.25)
        began_s = time.monotonic()
        turns.look()
        self._look_s = time.monotonic() - began_s

    def _is_hurried(self, name: str) -> bool:
        """Whether somebody was answered at once by a stage just now."""
        return time.monotonic() < self._hurried_s.get(name.partition("/")[0], float("-inf")) + HURRIED_S

    def _is_due(self, name: str) -> bool:
        looked_s = self._looked_s.get(name, float("-inf"))
        return not self._is_hurried(name) or time.monotonic() > looked_s + HURRY_PAUSE_S

    def _fold(self) -> None:
        end = self.system.log.end()
        if self.system.fold():
            self.stopping.wait(FOLD_PAUSE_S)
        else:
            self.system.log.wait(end, 0.25)

    def _train(self) -> None:
        end = self.system.log.end()
        for intent in self.system.pending():
            self.system.carry_out(intent)
        if self.system.log.wait(end, 0.25):
            self.stopping.wait(FOLD_PAUSE_S)

    def _tick(self) -> None:
        if not self.stopping.wait(self.tick_s):
            self.system.log.append([clock_draft(self.now_ms())], sync=False)

    def _hold(self, code: str) -> None:
        self.tally.add("turns_held", {"code": code})
        if self.stopping.wait(HOLD_S):
            raise Unavailable("Whoever scores this queue is away.", code=code)

    def _waiting(self, model: str) -> int:
        """How many rows wait for a model now: of a queue they lie on the log."""
        plan = self.system.file.plans.get(model)
        queued = plan is not None and plan.pipeline.serves is not None
        return self.system.behind(model) if queued else self.answers.waiting(model)

    def _asks(self, model: str) -> None:
        """Raise Refused for a model that is not asked at the door."""
        pipeline = self.system.file.plan(model).pipeline
        if pipeline.serves is not None:
            raise Refused(
                f"{model} serves a queue and answers nobody at the door.", code="queue_only",
                hint=f"Send requests as events to {pipeline.request.topic}, and read GET /models/{model}/answers.",
            )  # fmt: skip

    def requests(self, model: str, rows: Sequence[Mapping[str, Any]]) -> list[Draft]:
        """The records of requests; raises Refused where a row does not fit, or none is asked for."""
        self._asks(model)
        source = self.system.file.source(asked(self.system.file.plan(model).pipeline.request).topic)
        now_ms = self.now_ms()
        made: dict[str, Any] = {source.time: moment(now_ms)} if source.time else {}
        id = self._new_id(now_ms)
        filled = ({**made, source.id: f"{id}{i}", **row} for i, row in enumerate(rows))
        return _carrying([source.draft(source.parse(row)) for row in filled])

    def vectors(self, model: str, rows: Sequence[Sequence[Any]]) -> list[Draft]:
        """The same of rows that bring every feature value."""
        self._asks(model)
        width = len(self.system.file.plan(model).features.names)
        if set(map(len, rows)) - {width}:
            raise Refused(f"{model} takes {width} features a row.", code="shape")
        topic, now_ms = vectors(model), self.now_ms()
        id = self._new_id(now_ms)
        made = [Draft(topic, "", now_ms, pack(Vector(list(row))), f"{id}{i}") for i, row in enumerate(rows)]
        return _carrying(made)

    async def ask(self, model: str, rows: Sequence[Mapping[str, Any]], timeout_s: float) -> list[Prediction]:
        """Append requests and wait for their predictions; raises Refused before anything is written
        when a row does not fit, Unavailable when no champion or no answer is there in time."""
        return await self._asked(model, self.requests(model, rows), timeout_s)

    async def ask_vectors(
        self, model: str, rows: Sequence[Sequence[Any]], timeout_s: float
    ) -> list[Prediction]:
        """The same for rows of feature values."""
        return await self._asked(model, self.vectors(model, rows), timeout_s)

    def at_once(self, model: str, drafts: Sequence[Draft]) -> dict[str, Spoken] | None:
        """Append requests and answer them in the same write, on this thread: the served predictions by the
        requests' ids, without those that were asked before. None where that cannot be: for a model that may take
        its time, or on a log that others write to from other machines. Raises Unavailable as `ask` does."""
        self._champion(model)
        stages = [f"predict.{name}" for name in self.system.orders[model]]
        with self.admit(len(drafts) * len(stages), stages):
            outputs = self.system.answer(model, drafts)
        if outputs is None:
            return None
        self._hurried_s |= dict.fromkeys(stages, time.monotonic())
        topic = predictions(model)
        said = (unpack(one.value, Spoken) for one in outputs if one.topic == topic)
        return {one.request: one for one in said if one.served}

    def allow(self, model: str, n: int) -> None:
        """Take `n` rows of what a model may be asked now, or give them back; raises Unavailable."""
        try:
            self.rates.take(model, n)
        except Unavailable as error:
            self._limited(model, error)
            raise

    def _limited(self, model: str, error: Unavailable) -> None:
        self.tally.add("requests_limited", {"model": model, "code": error.code})

    def crowd(self, model: str, timeout_s: float) -> Unavailable | None:
        """What a request is refused with that would not be answered within its time; None where it would."""
        return self.answers.crowd(model, timeout_s)

    def _champion(self, model: str, child: str = "") -> None:
        if self.system.champion(model) is None:
            whose = f", whose answer {child} is given," if child not in ("", model) else ""
            raise Unavailable(
                f"{model}{whose} has no champion yet; requests are answered after the first release.",
                code="no_champion",
            )

    def _tell(self, outputs: Sequence[Draft]) -> None:
        """Predictions and dead letters are on the log: whoever waits for one is told."""
        self.answers.tell(outputs)
        for output in outputs:
            if output.topic == DEAD:
                letter = unpack(output.value, DeadLetter)
                (record, *_), _ = self.system.log.read([letter.topic], Position(n=letter.position), limit=1)
                self.answers.refuse(letter.stage.removeprefix("predict."), record.id, _why(letter))

    def _new_id(self, now_ms: int) -> str:
        """How the ids of requests without one begin: by the time, so that those of one moment lie together in the
        log's table of ids."""
        return f"{now_ms:012x}-{self._mark}-{next(self._numbers):x}-"

    async def _asked(self, model: str, drafts: Sequence[Draft], timeout_s: float) -> list[Prediction]:
        """Ask a model, and before it each of those whose answers it is given."""
        system, until_s = self.system, time.monotonic() + timeout_s
        names = self._order(model, drafts)
        for name in names:
            self._champion(name, model)
            if (error := self.crowd(name, timeout_s)) is not None:
                raise error
        if len({draft.id for draft in drafts}) < len(drafts):
            raise Refused("Two rows of the request have one id.", code="duplicate")
        said: dict[str, dict[str, Answer]] = {}
        for name in names[:-1]:
            mine = requests(system.file.plan(name).pipeline.request, drafts, said)
            found = await self._answered(name, mine, until_s)
            said[name] = {one.request: Answer.of(one) for one in found}
            if name == names[0]:
                drafts = await asyncio.to_thread(system.lying, drafts, range(len(drafts)))
        if said:
            drafts = requests(system.file.plan(model).pipeline.request, drafts, said)
        return await self._answered(model, drafts, until_s)

    def _order(self, model: str, drafts: Sequence[Draft]) -> Sequence[str]:
        """The models that are to answer, one after the other: who brings every feature value asks the last alone."""
        direct = all(one.topic == vectors(model) for one in drafts)
        return [model] if direct else self.system.orders[model]

    async def _answered(self, model: str, drafts: Sequence[Draft], until_s: float) -> list[Prediction]:
        if self.answers.room(model) < len(drafts):
            self._limited(model, error := self.answers.full(model))
            raise error
        futures = await self._put(model, drafts, until_s)
        try:
            return list(await asyncio.wait_for(asyncio.gather(*futures), until_s - time.monotonic()))
        except TimeoutError:
            raise too_late() from None
        finally:
            for future in futures:
                future.cancel()

    async def post(self, model: str, drafts: Sequence[Draft]) -> list[asyncio.Future[Prediction]]:
        """Put requests on the log; the futures of their served predictions: cancel one, and nobody waits for it.
        Raises Unavailable when no champion is there; for which there is no room, the future says so."""
        if len(self._order(model, drafts)) > 1:
            return [asyncio.create_task(self._one(model, draft)) for draft in drafts]
        self._champion(model)
        room = self.answers.room(model)
        futures = await self._put(model, drafts[:room], time.monotonic() + TIMEOUT_S) if room else []
        return futures + [self._full(model) for _ in drafts[room:]]

    def _full(self, model: str) -> asyncio.Future[Prediction]:
        """What one is told who may not wait."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        future.set_exception(error := self.answers.full(model))
        self._limited(model, error)
        return future

    async def _one(self, model: str, draft: Draft) -> Prediction:
        (said,) = await self._asked(model, [draft], TIMEOUT_S)
        return said

    async def _put(
        self, model: str, drafts: Sequence[Draft], until_s: float
    ) -> list[asyncio.Future[Prediction]]:
        futures = [self.answers.expect(model, draft.id) for draft in drafts]
        try:
            done = await asyncio.to_thread(self._append, model, self.system.owned(model, drafts))
        except BaseException:  # a call that was given up, too: nobody waits any more
            for future in futures:
                future.cancel()
            raise
        for i in done.repeats:
            task = asyncio.create_task(self._repeated(model, drafts[i].id, done.places[i], until_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return futures

    async def _repeated(self, model: str, id: str, place: int, until_s: float) -> None:
        """See to a request that is on the log already."""
        try:
            await self._again(model, place, until_s)
        except Refused as error:
            self.answers.refuse(model, id, error)
        except TimeoutError:  # whoever waits is told by his own clock
            pass

    async def _again(self, model: str, place: int, until_s: float) -> None:
        """Answer a request that is on the log already, as it was answered then; where another process has yet to
        answer it, once that has."""
        log, plan = self.system.log, self.system.file.plan(model)
        elsewhere = self.system.elsewhere(model, place)
        while True:
            end, passed = log.end(), self.system.passed(model, place)
            earlier = served(log, plan, place)
            if earlier is not None:
                return self.answers.give(earlier)
            if not (passed or elsewhere):
                return None
            dead = log.find(DEAD, f"{DEAD}:predict.{model}:{plan.pipeline.request.topic}:{place}")
            if dead is not None:
                raise _why(unpack(dead.value, DeadLetter))
            if not elsewhere:
                raise Refused(
                    "This id was asked before there was a champion to answer it.",
                    code="unanswered", hint="Ask again under another id.",
                )  # fmt: skip
            if (left_s := until_s - time.monotonic()) <= 0:
                raise TimeoutError
            await asyncio.to_thread(log.wait, end, left_s)

    def _append(self, model: str, drafts: Sequence[Draft]) -> Appended:
        """Put requests on the log. Under pressure those that are there already are answered all the same."""
        log = self.system.log
        try:
            with self.admit(len(drafts), [f"predict.{model}"]):
                done = log.append(drafts, sync=False)
        except Unavailable as error:
            found = [log.find(one.topic, one.id) for one in drafts] if error.code in PRESSED else [None]
            places = [one.position for one in found if one is not None]
            if len(places) < len(found):
                raise
            return Appended(places, list(range(len(places))), log.end())
        self.system.wake(model)
        return done
