/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The one judge of names that come from outside: topics, paths, one path component, identifiers, text.
 */

#include <stdbool.h>
#include <stddef.h>

/* Where a host puts a new guestd, in the guest, before it asks for the upgrade. */
#define NAME_UPGRADE_STAGE "/run/vmferry/guestd.new"

/* [A-Za-z0-9._-]{1,TOPIC_MAX}, not starting with a dot: it names a file in handlers.d. */
bool name_is_topic(const char *untrusted);
/* Absolute, at most PATH_BYTES_MAX, no empty, "." or ".." component in it; a trailing slash is allowed. */
bool name_is_absolute_path(const char *untrusted);
/* Absolute and no longer than that, whatever its components are: for what the kernel is given as it is. */
bool name_is_rooted(const char *untrusted);
/* Relative as in a tree: n bytes without NUL, components of 1..NAME_BYTES_MAX, none "." or "..", no slash at
 * either end. */
bool name_is_tree_path(const char *untrusted, size_t n);
/* Lower-case hex of 1..32 digits: ids of transfers and processes. */
bool name_is_id(const char *untrusted);
/* Valid UTF-8 of at most max bytes without C0 controls other than tab and newline. */
bool name_is_text(const char *untrusted, size_t max);
/* VAR in VAR=value: non-empty, no '=' and no NUL inside n bytes. */
bool name_is_variable(const char *untrusted);
/* Valid UTF-8 in n bytes (no NUL), for what goes on the bus. */
bool name_is_utf8(const char *untrusted, size_t n);
