/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The errors that a peer or the bus may be told: the names of org.vmferry1.Error.* without their prefix.
 * Everything that fails across a border is one of these and a sentence.
 */

typedef enum WireError {
        WIRE_OK = 0,
        WIRE_NO_SUCH_GUEST,
        WIRE_NOT_READY,
        WIRE_NO_CHANNEL,
        WIRE_CHANNEL_BUSY,
        WIRE_NOT_FOUND,
        WIRE_EXISTS,
        WIRE_PERMISSION_DENIED,
        WIRE_NO_SPACE,
        WIRE_TIMEOUT,
        WIRE_CANCELLED,
        WIRE_INTERRUPTED,
        WIRE_INTEGRITY,
        WIRE_TOO_LARGE,
        WIRE_INCOMPATIBLE,
        WIRE_LIMITS_EXCEEDED,
        WIRE_PROTOCOL,
        WIRE_UNSUPPORTED,
        WIRE_NO_HANDLER,
        WIRE_INVALID_PATH,
        WIRE_SOURCE_CHANGED,
        WIRE_INVALID_ARGS, /* on the bus: org.freedesktop.DBus.Error.InvalidArgs */
        WIRE_FAILED,       /* anything else; on the bus: org.freedesktop.DBus.Error.Failed */
        _WIRE_ERROR_MAX,
} WireError;

/* "NotReady" and so on; never NULL ("Failed" for a value outside the enum). */
const char *wire_error_to_string(WireError error);
/* Unknown names from a peer become WIRE_FAILED. */
WireError wire_error_from_string(const char *untrusted_name);
/* ENOENT → NotFound, ENOSPC and EDQUOT → NoSpace, EACCES, EPERM and EROFS → PermissionDenied, and so on. */
WireError wire_error_from_errno(int error);
