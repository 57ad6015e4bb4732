# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that are built into a copy of the collection, to prove that histories find them.

Those of `SEEN` do what a version of it once did, `CONTROL` switches off what protects a VM from a
run that dies, and the others are made up. Each is a piece of the code as it is, and what takes its
place; a unit test sees to it that the piece is there.
"""

from __future__ import annotations

from dataclasses import dataclass

PLACE = "plugins/module_utils/"


@dataclass(frozen=True)
class Fault:
    """`file` is below `PLACE`; `seed` is that of a history that has found it, if one has."""

    name: str
    file: str
    old: str
    new: str
    seed: int | None = None


SEEN = (
    Fault(
        "a record that was written in part takes the place of the one before",
        "_host/durable.py",
        "        view = view[os.write(descriptor, view) :]\n",
        "        os.write(descriptor, view)\n        return\n",
        seed=220,
    ),
    Fault(
        "a clone is merged into its template",
        "_plan/own.py",
        "    while depth < len(disk.chain) - 1:\n",
        "    depth = len(disk.chain) - 1\n    while depth < len(disk.chain) - 1:\n",
        seed=23,
    ),
    Fault(
        "an internal revert is promised though the image holds bitmaps",
        "_plan/vet_backups.py",
        "    held = _bitmaps(vm, images, facts)\n",
        "    held: dict[str, str] = {}\n",
        seed=15,
    ),
    Fault(
        "a snapshot of somebody else is found only by a name that we would give",
        "_snapshot.py",
        'name = params["name"] or check_snapshot_name("")',
        'name = check_snapshot_name(params["name"] or "")',
        seed=30,
    ),
    Fault(
        "only the image of a point itself decides whether that is whole",
        "_plan/damage.py",
        "            yield from _written(vm, found, entry.target, images)\n",
        "            yield from _written(vm, found, entry.target, images[:1])\n",
        seed=117,
    ),
    Fault(
        "no snapshot records how the images below it look",
        "_flow/stamping.py",
        "    if not (work.resumed or any(_moves_stamps(step) for step in work.steps)):\n",
        "    if True:\n",
        seed=39,
    ),
    Fault(
        "of another tool's snapshot nobody believes the clock",
        "_host/birth.py",
        "written = True if late else None",
        "written = None",
        seed=275,
    ),
    Fault(
        "after one backup no way back works",
        "_plan/vet_backups.py",
        "if not is_ours(name))\n    if foreign:",
        ")\n    if foreign:",
        seed=229,
    ),
    Fault(
        "a disk that came is not detached by going back",
        "_host/do_power.py",
        '    then = root.find("domain") if inactive is None else inactive\n',
        "    then = xml_root(call(doing, work.dom.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE))\n",
        seed=28,
    ),
    Fault(
        "an internal snapshot is brought back though another branch needs its image",
        "_plan/revert_checks.py",
        "        if image in (point, *(below.filename for below in vm.chain_of(point))):\n",
        "        if False:\n",
        seed=246,
    ),
    Fault(
        "an internal snapshot below others cannot be deleted",
        "_plan/absent.py",
        "        if depth and not vm.off:\n",
        "        if depth:\n",
        seed=5,
    ),
    Fault(
        "what others have left on an image keeps a snapshot from being removed",
        "_plan/loose.py",
        "            yield RemoveFile(path, HELD, spare=True)",
        "            yield RemoveFile(path, HELD)",
        seed=278,
    ),
    Fault(
        "a snapshot of some disks is lost by going back below it",
        "_plan/revert.py",
        "    needed = {image.filename for snapshot in vm.snapshots for",
        "    whole = [each for each in vm.snapshots if len(each.taken) == len(vm.writable)]\n"
        "    needed = {image.filename for snapshot in whole for",
        seed=37,
    ),
    Fault(
        "an increment is promised though the bitmaps are lost",
        "_plan/backup.py",
        'unsound = "" if vm.off else _without_bitmap(parent, vm) or known.unsound\n',
        'unsound = ""\n',
        seed=209,
    ),
    Fault(
        "the name of a new overlay is one that was left of another tool's snapshot",
        "_plan/snapshot_files.py",
        "    known.update(vm.numbered, *(",
        "    known.update(*(",
        seed=252,
    ),
)

INVENTED = (
    Fault(
        "a restore point that was found good once is not read again",
        "_host/verify.py",
        "    jobs = [(point, file) for point in points.values() for file in point.files]\n",
        "    known = list(filter(stock.is_verified, points.values()))\n"
        "    jobs = [(p, file) for p in points.values() if p not in known for file in p.files]\n",
        seed=36,
    ),
    Fault(
        "the journal of a run that died is not looked at",
        "_flow/change.py",
        "apply_held(host, dom, recovered(host, dom, outcome), plan_for, outcome)",
        "apply_held(host, dom, observe(host, dom), plan_for, outcome)",
        seed=232,
    ),
    Fault(
        "an overlay that a dead run has made, and nobody uses, stays",
        "_plan/recover.py",
        "        elif step.file in left.existing and was_unused(step, vm):\n",
        "        elif False:\n",
        seed=79,
    ),
    Fault(
        "going back puts the overlay on the present image",
        "_plan/revert.py",
        "    return CreateOverlay(target, file, point, image_format,",
        "    on = vm.disk(target)\n"
        "    point = on.files[0] if on and on.chain else point\n"
        "    return CreateOverlay(target, file, point, image_format,",
        seed=232,
    ),
    Fault(
        "a merge does not correct the records of the other snapshots",
        "_plan/merge.py",
        "    return (RewriteSnapshot(snapshot.name, moved, lost),) if moved or lost else ()\n",
        "    return ()\n",
        seed=32,
    ),
    Fault(
        "an increment stands on the first restore point, whatever it counts from",
        "_plan/backup.py",
        '    backing = f"../{parent.id}/{stored.file}" if',
        '    backing = f"../{backups_of(vm).stock.points[0].id}/{stored.file}" if',
        seed=50,
    ),
    Fault(
        "a merge may write to what a snapshot goes back to",
        "_plan/merge.py",
        "    for snapshot in vm.snapshots:\n        if snapshot in dying:\n            continue\n",
        "    for snapshot in ():\n        if snapshot in dying:\n            continue\n",
        seed=15,
    ),
    Fault(
        "one restore point too many is removed",
        "_plan/retention.py",
        "newest_first[: rules.last], 1)",
        "newest_first[: max(1, rules.last - 1)], 1)",
        seed=173,
    ),
    Fault(
        "a guest counts as thawed that nobody has thawed",
        "_host/freeze.py",
        "        thawed = thaw(dom)\n        freeze.ended",
        "        thawed = 1\n        freeze.ended",
        seed=5,
    ),
    Fault(
        "disks are written to though the memory of the machine is saved",
        "_plan/barred.py",
        "    if facts.managed_save:\n",
        "    if False:\n",
        seed=239,
    ),
    Fault(
        "check mode does not foresee that an internal snapshot goes",
        "_plan/predict.py",
        "        left = _without(vm.snapshots, step.name)\n",
        "        left = vm.snapshots\n",
        seed=273,
    ),
    Fault(
        "a merge leaves the definition of a machine that is off at what was merged",
        "_plan/merge.py",
        "    stale = disk.persistent in step.merged or any(",
        "    stale = any(",
        seed=34,
    ),
    Fault(
        "the overlays that going back gives up stay",
        "_plan/revert.py",
        "                steps.append(RemoveFile(image, GIVEN_UP, spare=True))\n",
        "                pass\n",
        seed=97,
    ),
)

CONTROL = (
    Fault(
        "the guard does not know of any guest",
        "_host/freeze.py",
        '        self._tell(f"arm {uuid} {seconds} {token}")\n',
        "        pass\n",
        seed=6,
    ),
    Fault(
        "nothing of a run that died is recovered",
        "_host/observe.py",
        "    journal = read_journal(host.state_dir, live.uuid)\n",
        "    journal = None\n",
        seed=32,
    ),
)

FAULTS = (*SEEN, *CONTROL, *INVENTED)
