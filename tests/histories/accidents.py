# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong: a run of ours is killed, or meets another one, or has no room."""

from __future__ import annotations

import contextlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import libvirt
from lab.programs import LabError
from lab.vm import wait_until

from . import beside
from .actions import ACTIONS, Task, action
from .judge import DONE, Candidate, Fault, Trial, message, one_of
from .model import RUNNING, Model, Unfit, demand
from .stage import Stage
from .tasks import FILLER, NAME

# Tasks that freeze the guest and do not start another one, and how long it may stay so.
FREEZING = ("snapshot", "back up", "checkpoint", "storage snapshot")
STAYS_FROZEN = 15  # s, after the death of the task
# Tasks that switch it off on their way.
STOPPING = ("go back", "go back and keep", "restore checkpoint", "restore in place")
# As many as tasks have, most of whose effects are notes of what they do: of what they let libvirt
# and the guest do, and of all, of a short task and of a long one.
MOMENTS = (("call", 6), ("effect", 24), ("effect", 60))
Given = dict[str, Any]


def task(model: Model, random: Random) -> tuple[str, Given]:
    """The name of one of our tasks that fits, and its parameters. Raises `Unfit` for none."""
    kinds = [name for name, each in ACTIONS.items() if isinstance(each, Task) and each.weight]
    random.shuffle(kinds)
    for kind in kinds:
        try:
            given = ACTIONS[kind].offer(model, random)
            ACTIONS[kind].after(model.copy(), **given)
        except Unfit:
            continue
        return kind, given
    raise Unfit


def known(kind: str) -> Task:
    """A task of ours by the name of its action."""
    found = ACTIONS.get(kind)
    if not isinstance(found, Task):
        raise Unfit
    return found


def then(model: Model, *tasks: tuple[str, Given]) -> Iterator[Candidate]:
    """The machine after these, one after the other, if that can be."""
    after = model.copy()
    try:
        for kind, given in tasks:
            known(kind).after(after, **given)
    except Unfit:
        return
    yield Candidate(after, model, tuple((known(kind), given) for kind, given in tasks))


def as_before(model: Model, kind: str) -> Iterator[Candidate]:
    """The machine as it was; started anew where a task has switched it off, and got no further."""
    yield from then(model)
    if kind in STOPPING and model.active:
        after = model.copy()
        after.off()
        after.frozen = False
        yield Candidate(after, model)


def check_thawed(stage: Stage, model: Model, kind: str) -> None:
    """Raise Fault where a task has left the guest frozen; nothing of ours has run since it died."""
    if not (kind in FREEZING and model.awake and model.honest):
        return

    def thawed() -> bool:
        # An agent is asked again that a task, or a daemon, has died over.
        with contextlib.suppress(libvirt.libvirtError):
            return stage.power() != RUNNING or not stage.frozen()
        return False

    try:
        wait_until(thawed, STAYS_FROZEN, "the guest is thawed")
    except LabError as error:
        raise Fault(f"{kind} has died: {error}") from None


@action("killed", 12)
class Killed(Trial):
    """One of our tasks dies; it is then run again, or another task finds what it has left."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        kind, given = task(model, random)
        of, most = random.choice(MOMENTS)
        when = {"at": random.randint(1, most), "of": of}
        then = random.choice(["again", "another"])
        return {"kind": kind, "given": given, "then": then, **when}

    def after(
        self, model: Model, *, kind: str, at: int, then: str, given: Given, of: str = "effect"
    ) -> None:
        known(kind).after(model, **given)

    def run(self, stage: Stage, model: Model, **params: Any) -> tuple[str, Model]:
        """What is found is the state before it or after it, once recovered."""
        what, given = known(params["kind"]), params["given"]
        options = what.options(stage, **given)
        of = params.get("of", "effect")
        died = stage.killed(what.module, params["at"], of, **options)
        stage.settled()
        check_thawed(stage, model, params["kind"])
        dead = (params["kind"], given)
        candidates = [*then(model, dead), *as_before(model, params["kind"])]
        if not died:
            outcome = "was over"
        elif params["then"] == "again" or what.alone:
            outcome = f"killed, again: {message(stage.attempt(what.module, **options))}"
            # Where the dead run had done all, this one has done it once more.
            candidates += then(model, dead, dead)
        else:
            nothing = {"name": "nosuch", "state": "absent"}
            answer = message(stage.attempt("vm_snapshot", **nothing))
            if answer != DONE:
                raise Fault(f"the next task after a kill: {answer}")
            outcome = "killed, another task"
        beside.clear(stage)
        return outcome, one_of(stage, candidates)


@action("two at once", 3)
class TwoAtOnce(Trial):
    """Two of our tasks, or the same one twice: one waits for the other, or is refused."""

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        first = task(model, random)
        second = first if random.random() < 0.3 else task(model, random)
        return {"tasks": [list(first), list(second)]}

    def after(self, model: Model, *, tasks: list[list[Any]]) -> None:
        for kind, given in tasks:
            known(kind).after(model.copy(), **given)

    def run(self, stage: Stage, model: Model, *, tasks: list[list[Any]]) -> tuple[str, Model]:
        pairs = list(map(tuple, tasks))
        runs = [
            stage.begin(known(kind).module, **known(kind).options(stage, **given))
            for kind, given in pairs
        ]
        results = [run.result() for run in runs]
        beside.clear(stage)
        done = [pair for pair, result in zip(pairs, results) if not result["failed"]]
        candidates = [each for order in permutations(done) for each in then(model, *order)]
        # The second of two alike may have found it done.
        candidates += [each for pair in done for each in then(model, pair)]
        if not done:
            candidates = list(then(model))
        return "; ".join(map(message, results)), one_of(stage, candidates)


@action("back up without room", 2)
class NoRoom(Trial):
    """On a file system that is too small, or that somebody else fills: the guest goes on.

    With `records` there is room for a part only of the record after so many, and then again.
    """

    PART = 4096  # bytes: the definition has more

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        room = random.choice([400, 36_000, 38_000, 44_000])
        filled = random.random() < 0.7
        if room == 44_000:
            return {"room": room, "records": random.randint(0, 2)}
        return {"room": room, "filled": filled}

    def after(self, model: Model, *, room: int, **_how: Any) -> None:
        demand(model.power != "saved" and not model.frozen)

    def run(self, stage: Stage, model: Model, *, room: int, **how: Any) -> tuple[str, Model]:
        """The guest writes meanwhile."""
        with stage.small(room << 10) as place, stage.busy(model.awake):
            result = self._result(stage, model, place, **how)
            if result["failed"] and (left := list(place.rglob("*.qcow2"))):
                raise Fault(f"{message(result)}\nleft: {left}")
            (place / FILLER).unlink(missing_ok=True)
            if not result["failed"]:
                self._check_readable(stage, place)
        return message(result), one_of(stage, then(model))

    def _result(
        self, stage: Stage, model: Model, place: Path, *, filled: bool = False, records: int = -1
    ) -> dict[str, Any]:
        if records >= 0:
            told = {"place": str(place), "after": records, "left": self.PART}
            env = {"VMKEEP_FULL": json.dumps(told)}
            return stage.filling("vm_backup", env, repository=str(place))
        others = filled and model.active
        with stage.filled_by_others(place) if others else contextlib.nullcontext():
            return stage.attempt("vm_backup", repository=str(place))

    def _check_readable(self, stage: Stage, place: Path) -> None:
        """What a task calls done is one restore point that is whole."""
        said = stage.attempt("vm_backup_info", repository=str(place), verify=True)
        if said["failed"] or len(said["vms"][NAME]["restore_points"]) != 1:
            raise Fault(f"what was made cannot be read: {said}")
        for path in place.rglob("domain.xml"):
            try:
                ET.parse(path)
            except ET.ParseError as error:
                raise Fault(f"{path} is written in part: {error}") from None


@action("refused while its memory is saved", 4)
class WhileSaved(Trial):
    """What would make that memory worthless."""

    KINDS = (
        *("snapshot", "remove", "remove with all below", "commit", "pull", "go back"),
        *("go back and keep", "restore checkpoint", "remove checkpoint"),
    )
    # Without the file that it is saved in.
    FORGETTING = ("let memory run", "save memory")

    def offer(self, model: Model, random: Random) -> dict[str, Any]:
        demand(model.power == "saved")
        other = model.copy()
        other.power = "off"
        if model.saved_in and random.random() < 0.3:
            return {"kind": random.choice(self.FORGETTING), "given": {}}
        kind = random.choice(self.KINDS)
        return {"kind": kind, "given": ACTIONS[kind].offer(other, random)}

    def after(self, model: Model, *, kind: str, given: Given) -> None:
        forgets = bool(model.saved_in) and kind in self.FORGETTING and not given
        demand(model.power == "saved" and (kind in self.KINDS or forgets))
        demand(given.get("name", "") in model.points or "name" not in given or kind == "snapshot")

    def run(self, stage: Stage, model: Model, *, kind: str, given: Given) -> tuple[str, Model]:
        what, before, images = known(kind), stage.world(), stage.images()
        options = what.options(stage, **given)
        foreseen = stage.attempt(what.module, check=True, **options)
        real = stage.attempt(what.module, **options)
        if foreseen["failed"] != real["failed"]:
            raise Fault(f"check mode: {message(foreseen)}\nreally: {message(real)}")
        if stage.images() != images:
            raise Fault(f"{kind} {given} has changed the disks of a machine whose memory is saved")
        candidates = list(then(model))
        if real["changed"]:  # only what is beside its disks
            candidates = [self._done(model, what, given)]
        elif stage.world() != before:
            raise Fault(f"{kind} {given} has changed something and does not say so")
        return message(real), one_of(stage, candidates)

    def _done(self, model: Model, what: Task, given: Given) -> Candidate:
        """A point is removed that nothing of the disks stands on."""
        after = model.copy()
        after.power = "off"
        what.after(after, **given)
        after.power = "saved"
        return Candidate(after, model, ((what, given),))
