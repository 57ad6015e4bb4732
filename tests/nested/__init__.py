# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor in a virtual machine, with KVM inside: where Molecule runs the collection.

QEMU runs Debian (L1), which runs a guest of the lab under KVM (L2). Where the KVM of this machine
cannot be nested, or is none, QEMU emulates a processor with AMD's SVM: L2 then runs under KVM all
the same, only slowly. Molecule calls `python -m nested` (--help tells more).
"""
