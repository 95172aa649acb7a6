# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private host: libvirtd, real virtual machines, a bus, hostd. Everything lives in one directory under /tmp and ends with it."""
