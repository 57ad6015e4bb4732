# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random histories of a virtual machine: what people do to it with this collection and beside it.

`model` says what must be so, `stage` has the real machine, `actions_*` are what can happen to it,
`judge` compares the two after each of them, `play` goes through one history, and `shrink` makes a
history that fails as short as it can be. ``bin/test histories`` starts it.
"""
