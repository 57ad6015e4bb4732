# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points are kept, and that no way to it leaves one without what it stands on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.backup import (
    FULL,
    IMAGE,
    INCREMENTAL,
    Parent,
    RestorePoint,
    StoredDisk,
    StoredFile,
    id_at,
    in_utc,
    moment,
    sealed,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock import Stock, Verified
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.stock_step import (
    FinishMerge,
    MergePoint,
    RemoveDebris,
    RemovePoint,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.foreseen import (
    Foreseen,
    with_foreseen,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.prune import (
    picture,
    plan_prune,
    wanted_points,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.retention import (
    RULES,
    Retention,
    kept_by_rules,
)
from hypothesis import given, settings
from hypothesis import strategies as st

BEGIN = datetime(2026, 11, 1, 3, tzinfo=timezone.utc)
PLENTY = 1 << 50
MIB = 1 << 20
NONE = frozenset[str]()


@dataclass(frozen=True)
class Draft:
    """A restore point to be: hours since the one before, what it stands on, what is known of it."""

    hours: float = 24
    below: int = 1  # so many points before this one; 0 for a full one
    bad: bool = False
    verified: bool = False
    protected: bool = False


def stock_of(*drafts: Draft) -> Stock:
    points: list[RestorePoint] = []
    time = BEGIN
    for number, draft in enumerate(drafts):
        time += timedelta(hours=draft.hours)
        full = draft.below == 0 or draft.below > len(points)
        parent = None if full else points[-draft.below]
        kind = FULL if full else INCREMENTAL
        point = RestorePoint(
            id=id_at(time, [p.id for p in points]), vm="db01", uuid="u", sequence=number,
            time=in_utc(time), type=kind, reason="", consistency="offline",
            files=(StoredFile("vda.qcow2", IMAGE, (100 if full else 10) * MIB, "0" * 64),),
            disks=(StoredDisk("vda", "vda.qcow2", kind, "raw", 1000 * MIB, "/vda"),),
            started="", finished="", seconds=1, protected=draft.protected,
            parent=None if parent is None else Parent(parent.id, parent.digest),
        )  # fmt: skip
        points.append(sealed(point))
    pairs = list(zip(points, drafts))
    return Stock(
        "/srv",
        "/srv/db01.u",
        tuple(points),
        troubles={point.id: "it is torn" for point, draft in pairs if draft.bad},
        verified={p.id: Verified(p.time, p.digest) for p, draft in pairs if draft.verified},
    )


def days(count: int, **values: object) -> Stock:
    """One full point and incremental ones on it, a day from each to the next."""
    return stock_of(*[Draft(**values)] * count)


def reasons(stock: Stock, rules: Retention, free: int = PLENTY) -> list[list[str]]:
    """Of each point why it is kept, nothing for one that goes."""
    plan = plan_prune(stock, rules, free)
    return [list(plan.kept.get(point.id, ())) for point in stock.points]


def steps(stock: Stock, rules: Retention, free: int = PLENTY) -> list[str]:
    """The steps in short, points by their numbers."""
    number = {point.id: str(n) for n, point in enumerate(stock.points)}
    return [
        f"{step.step} {number.get(getattr(step, 'point', ''), '')}".strip()
        for step in plan_prune(stock, rules, free).steps
    ]


# --- the rules ---


def test_each_rule_keeps_the_newest_of_each_bucket() -> None:
    stock = stock_of(*[Draft(hours=12)] * 8)  # 1st 15:00, 2nd 03:00 and 15:00, ... 5th 03:00
    assert reasons(stock, Retention(daily=3, hourly=1)) == [
        [],
        [],
        [],
        [],
        ["daily 2026-11-03"],
        [],
        ["daily 2026-11-04"],
        ["hourly 2026-11-05T03", "daily 2026-11-05", "newest"],
    ]


def test_weeks_are_those_of_iso_8601_and_years_end() -> None:
    stock = stock_of(Draft(hours=24 * 57), *[Draft(hours=24 * 4)] * 3)
    assert [point.time[:10] for point in stock.points] == [
        "2026-12-28", "2027-01-01", "2027-01-05", "2027-01-09",
    ]  # fmt: skip
    assert reasons(stock, Retention(weekly=2, yearly=2, merge=False)) == [
        ["yearly 2026"],
        ["weekly 2026-W53"],
        ["needed by 20270109T030000Z"],
        ["weekly 2027-W01", "yearly 2027", "newest"],
    ]


def test_days_without_a_point_do_not_count() -> None:
    stock = stock_of(*[Draft(hours=24 * 40)] * 3)
    assert all(reasons(stock, Retention(daily=3)))


def test_more_than_there_are() -> None:
    stock = days(3)
    assert reasons(stock, Retention(last=9))[0] == ["last 3"]
    assert steps(stock, Retention(last=9)) == []


# --- chains ---


def test_a_kept_point_is_made_full_before_what_it_stood_on_goes() -> None:
    assert steps(days(4), Retention(last=2)) == [
        "merge_point 2",
        "remove_point 1",
        "remove_point 0",
    ]


def test_nothing_is_merged_where_its_parent_is_kept_or_the_whole_chain_goes() -> None:
    two_chains = stock_of(Draft(), Draft(), Draft(below=0), Draft())
    assert steps(two_chains, Retention(last=2)) == ["remove_point 1", "remove_point 0"]


def test_merging_is_done_from_the_oldest_on_and_frees_at_once() -> None:
    stock = stock_of(Draft(), Draft(protected=True), Draft(), Draft())
    assert steps(stock, Retention(last=1)) == [
        "merge_point 1",
        "remove_point 0",
        "merge_point 3",
        "remove_point 2",
    ]
    merging = [s for s in plan_prune(stock, Retention(last=1), PLENTY).steps if s.step[0] == "m"]
    ids = [point.id for point in stock.points]
    assert [list(step.merged) for step in merging] == [[ids[0]], [ids[2], ids[1]]]


def test_without_merging_what_is_needed_stays() -> None:
    ids = [point.id for point in days(3).points]
    needed = [f"needed by {ids[2]}"]
    assert reasons(days(3), Retention(last=1, merge=False)) == [
        needed, needed, ["last 1", "newest"],
    ]  # fmt: skip
    assert steps(days(3), Retention(last=1, merge=False)) == []


def test_without_room_what_is_needed_stays() -> None:
    stock = days(3)
    plan = plan_prune(stock, Retention(last=1), 120 * MIB)
    assert plan.steps == () and f"{120 * MIB} are free" in plan.notes[0]
    assert reasons(stock, Retention(last=1), 120 * MIB)[0] == [f"needed by {stock.points[2].id}"]
    assert steps(stock, Retention(last=1), 121 * MIB)[0] == "merge_point 2"


def test_room_that_becomes_free_is_used() -> None:
    stock = stock_of(Draft(), Draft(below=0), Draft())
    assert steps(stock, Retention(last=1), 20 * MIB) == [
        "remove_point 0",
        "merge_point 2",
        "remove_point 1",
    ]


def test_room_that_was_taken_is_not_taken_twice() -> None:
    stock = stock_of(Draft(), Draft(protected=True), Draft(), Draft())
    assert steps(stock, Retention(last=1), 131 * MIB) == ["merge_point 1", "remove_point 0"]
    assert len(steps(stock, Retention(last=1), 142 * MIB)) == 4


def test_branches() -> None:
    """Two children of one point, one of which goes."""
    stock = stock_of(Draft(), Draft(), Draft(below=2))
    assert steps(stock, Retention(last=1)) == ["remove_point 1", "merge_point 2", "remove_point 0"]
    assert steps(stock, Retention(last=1, merge=False)) == ["remove_point 1"]


# --- what is never removed ---


def test_the_newest_good_and_the_newest_verified_stay() -> None:
    stock = stock_of(Draft(verified=True), Draft(below=0), Draft(below=0), Draft(below=0, bad=True))
    assert reasons(stock, Retention(yearly=1)) == [
        ["newest verified"],
        [],
        ["yearly 2026", "newest"],
        ["yearly 2026, although it is bad"],
    ]


def test_a_bad_point_takes_nobodys_place() -> None:
    stock = stock_of(*[Draft(below=0)] * 2, *[Draft(below=0, bad=True)] * 2, Draft(below=0))
    assert reasons(stock, Retention(last=2)) == [
        [],
        ["last 2"],
        [],
        ["last 2, although it is bad"],
        ["last 1", "newest"],
    ]


def test_what_a_bad_point_stands_on_stays_with_it() -> None:
    """It cannot be merged, and perhaps it can be mended."""
    stock = stock_of(Draft(), Draft(), Draft(bad=True, protected=True), Draft(below=0))
    assert steps(stock, Retention(last=1)) == []
    needed = [f"needed by {stock.points[2].id}"]
    assert reasons(stock, Retention(last=1))[:3] == [needed, needed, ["protected"]]
    free = stock_of(Draft(), Draft(), Draft(bad=True), Draft(below=0))
    assert steps(free, Retention(last=1)) == ["remove_point 2", "remove_point 1", "remove_point 0"]


def test_all_of_them_bad() -> None:
    assert steps(days(3, bad=True), Retention(last=1)) == []


def test_protected_points_stay() -> None:
    stock = stock_of(*[Draft(below=0)] * 2, Draft(below=0, protected=True), Draft(below=0))
    first = stock.points[0].id
    assert reasons(stock, Retention(last=1, protect=frozenset({first}))) == [
        ["protected"],
        [],
        ["protected"],
        ["last 1", "newest"],
    ]


def test_what_dead_runs_left_is_brought_in_order_first() -> None:
    stock = days(2)
    stock = replace(stock, staged=(stock.points[0].id,), debris=("/srv/x",), broken={"b": "torn"})
    plan = plan_prune(stock, Retention(last=1), PLENTY)
    assert plan.steps[:2] == (FinishMerge(stock.points[0].id), RemoveDebris("/srv/x"))
    assert plan.notes == ("b is left alone: torn",)


def test_the_picture_names_the_reasons() -> None:
    stock = days(2)
    before, after = picture("db01", stock, plan_prune(stock, Retention(last=1), PLENTY))
    ids = [point.id for point in stock.points]
    assert before.splitlines() == [
        "db01:",
        f"  {ids[0]} full; goes: no rule keeps it",
        f"  {ids[1]} incremental on {ids[0]}; stays: last 1, newest",
    ]
    assert after.splitlines() == ["db01:", f"  {ids[1]} full; stays: last 1, newest"]


def test_five_hundred_in_one_chain_are_quick() -> None:
    stock = days(500)
    assert len(plan_prune(stock, Retention(daily=7, monthly=12), PLENTY).removed) > 400
    assert len(plan_prune(stock, Retention(last=250, merge=False), 0).kept) == 500


# --- whatever there is and whatever is asked for ---

drafts = st.lists(
    st.builds(
        Draft,
        hours=st.sampled_from([0.5, 6, 24, 24 * 8, -3]),
        below=st.integers(0, 3),
        bad=st.sampled_from([False, False, False, True]),
        verified=st.booleans(),
        protected=st.sampled_from([False] * 6 + [True]),
    ),
    max_size=12,
)
counts = st.integers(0, 4)
retentions = st.builds(
    Retention, counts, counts, counts, counts, counts, counts, st.just(NONE), st.booleans()
).filter(lambda rules: any(getattr(rules, rule) for rule in RULES))
room = st.sampled_from([0, 15 * MIB, 130 * MIB, PLENTY])


def after_step(points: dict[str, RestorePoint], step: object, bad: set[str]) -> None:
    """Do a step to points, and hold it against what must never happen."""
    if isinstance(step, MergePoint):
        point = points[step.point]
        assert point.id not in bad and point.parent
        assert all(id in points for id in step.merged), "it is read from what is gone"
        new = replace(point, type=FULL, parent=None, formerly=(point.digest,),
                      disks=tuple(replace(disk, type=FULL) for disk in point.disks))  # fmt: skip
        points[point.id] = sealed(new)
    elif isinstance(step, RemovePoint):
        gone = points.pop(step.point)
        on = [p.id for p in points.values() if p.parent and p.parent.id == gone.id]
        assert not on, f"{gone.id} went, and {on} stood on it"


@settings(max_examples=150, deadline=None)
@given(drafts, retentions, room)
def test_no_plan_loses_what_is_to_be_kept(
    given_drafts: list[Draft], rules: Retention, free: int
) -> None:
    stock = stock_of(*given_drafts)
    plan = plan_prune(stock, rules, free)
    bad = {point.id for point in stock.points if stock.trouble_of(point)}
    points = {point.id: point for point in stock.points}
    for step in plan.steps:
        after_step(points, step, bad)
    assert set(points) == set(plan.kept) and set(plan.removed).isdisjoint(plan.kept)
    assert set(wanted_points(stock, rules)) <= set(points)
    assert bool(points) == bool(stock.points), "nothing is left"
    assert {p.id for p in stock.good[-1:]} <= set(points)
    assert {p.id for p in [p for p in stock.good if stock.is_verified(p)][-1:]} <= set(points)
    troubles = {id: why for id, why in stock.troubles.items() if id in points}
    before = {point.id for point in stock.points if stock.is_verified(point)}
    merged = {id: Verified("", points[id].digest) for id in plan.merged if id in before}
    verified = {**stock.verified, **merged}
    left = replace(stock, points=tuple(points.values()), troubles=troubles, verified=verified)
    assert {point.id for point in left.points if left.trouble_of(point)} <= bad
    assert plan_prune(left, rules, 0).steps == (), "a second run would go on"


@settings(max_examples=150, deadline=None)
@given(drafts, st.builds(Draft, below=st.integers(0, 3)), st.booleans(), retentions)
def test_what_is_foreseen_is_planned_as_what_is_there(
    given_drafts: list[Draft], last: Draft, verified: bool, rules: Retention
) -> None:
    there = stock_of(*given_drafts, last)
    *older, point = there.points
    before = replace(there, points=tuple(older))
    parent = point.parent.id if point.parent else ""
    foreseen = with_foreseen(before, Foreseen(point.id, point.time, parent, verified))
    read = there.lineage(point) if verified else ()
    good = [each for each in read if not there.trouble_of(each)]
    marks = {each.id: Verified(point.time, each.digest) for each in good}
    there = replace(there, verified={**there.verified, **marks})
    assert reasons(foreseen, rules) == reasons(there, rules)
    assert steps(foreseen, rules) == steps(there, rules)
    again = with_foreseen(there, Foreseen(point.id, point.time, parent, verified))
    assert again == there


def test_what_is_foreseen_is_in_no_picture_of_what_is_there() -> None:
    stock = with_foreseen(days(1), Foreseen("20261103T030000Z", "2026-11-03T03:00:00Z"))
    before, after = picture("db01", stock, plan_prune(stock, Retention(last=2), PLENTY))
    assert "20261103T030000Z" not in before
    assert after == f"{before}\n  20261103T030000Z full; stays: last 1, newest"


@settings(max_examples=100, deadline=None)
@given(drafts, retentions)
def test_the_rules_keep_what_they_say(given_drafts: list[Draft], rules: Retention) -> None:
    """Against another way to count, for points in the order of their times."""
    points = stock_of(*[replace(draft, hours=abs(draft.hours)) for draft in given_drafts]).points
    wanted = {point.id for point in points[len(points) - min(rules.last, len(points)) :]}
    shapes = {"hourly": 13, "daily": 10, "monthly": 7, "yearly": 4}
    for rule, length in shapes.items():
        newest = {point.time[:length]: point.id for point in points}
        chosen = sorted(newest, reverse=True)[: getattr(rules, rule)]
        wanted |= {newest[bucket] for bucket in chosen}
    weeks = {_monday(point.time): point.id for point in points}
    wanted |= {weeks[week] for week in sorted(weeks, reverse=True)[: rules.weekly]}
    assert set(kept_by_rules(points, rules)) == wanted


def _monday(time: str) -> datetime:
    found = moment(time)
    assert found
    return datetime(found.year, found.month, found.day) - timedelta(days=found.weekday())
