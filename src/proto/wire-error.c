/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The table of error names. A name that a peer sends and that is not here is "Failed": the sentence beside
 * it is what helps then.
 */

#include "proto/wire-error.h"

#include "base/base.h"

static const char *const names[_WIRE_ERROR_MAX] = {
        [WIRE_OK] = "OK",
        [WIRE_NO_SUCH_GUEST] = "NoSuchGuest",
        [WIRE_NOT_READY] = "NotReady",
        [WIRE_NO_CHANNEL] = "NoChannel",
        [WIRE_CHANNEL_BUSY] = "ChannelBusy",
        [WIRE_NOT_FOUND] = "NotFound",
        [WIRE_EXISTS] = "Exists",
        [WIRE_PERMISSION_DENIED] = "PermissionDenied",
        [WIRE_NO_SPACE] = "NoSpace",
        [WIRE_TIMEOUT] = "Timeout",
        [WIRE_CANCELLED] = "Cancelled",
        [WIRE_INTERRUPTED] = "Interrupted",
        [WIRE_INTEGRITY] = "Integrity",
        [WIRE_TOO_LARGE] = "TooLarge",
        [WIRE_INCOMPATIBLE] = "Incompatible",
        [WIRE_LIMITS_EXCEEDED] = "LimitsExceeded",
        [WIRE_PROTOCOL] = "Protocol",
        [WIRE_UNSUPPORTED] = "Unsupported",
        [WIRE_NO_HANDLER] = "NoHandler",
        [WIRE_INVALID_PATH] = "InvalidPath",
        [WIRE_SOURCE_CHANGED] = "SourceChanged",
        [WIRE_INVALID_ARGS] = "InvalidArgs",
        [WIRE_FAILED] = "Failed",
};

const char *wire_error_to_string(WireError error)
{
        if ((unsigned)error >= _WIRE_ERROR_MAX)
                return names[WIRE_FAILED];
        return names[error];
}

WireError wire_error_from_string(const char *untrusted_name)
{
        if (!untrusted_name)
                return WIRE_FAILED;
        /* "OK" is our own word for no error: nobody may claim it as one */
        for (size_t i = WIRE_OK + 1; i < ELEMENTSOF(names); i++)
                if (str_eq(names[i], untrusted_name))
                        return (WireError)i;
        return WIRE_FAILED;
}

WireError wire_error_from_errno(int error)
{
        switch (error < 0 ? -error : error) {
        case 0:
                return WIRE_OK;
        case ENOENT:
        case ESRCH:
        case ENXIO:
        case ENODEV:
                return WIRE_NOT_FOUND;
        case EEXIST:
        case ENOTEMPTY:
                return WIRE_EXISTS;
        case EACCES:
        case EPERM:
        case EROFS:
                return WIRE_PERMISSION_DENIED;
        case ENOSPC:
        case EDQUOT:
                return WIRE_NO_SPACE;
        case EFBIG:
        case E2BIG:
        case EMSGSIZE:
        case EOVERFLOW:
                return WIRE_TOO_LARGE;
        case ETIMEDOUT:
        case ETIME:
                return WIRE_TIMEOUT;
        case ECANCELED:
                return WIRE_CANCELLED;
        case EINTR:
        case ECONNRESET:
        case ECONNABORTED:
        case EPIPE:
        case ESHUTDOWN:
                return WIRE_INTERRUPTED;
        case ENOTCONN:
                return WIRE_NOT_READY;
        case EBADMSG:
        case EPROTO:
                return WIRE_PROTOCOL;
        case EOPNOTSUPP:
        case ENOSYS:
        case ENOTTY:
                return WIRE_UNSUPPORTED;
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
        case EXDEV:
        case ENAMETOOLONG:
                return WIRE_INVALID_PATH;
        case EMFILE:
        case ENFILE:
        case ENOMEM:
        case ENOBUFS:
        case EAGAIN:
        case EMLINK:
                return WIRE_LIMITS_EXCEEDED;
        case ESTALE:
                return WIRE_SOURCE_CHANGED;
        case EILSEQ:
        case EINVAL:
                return WIRE_INVALID_ARGS;
        default:
                return WIRE_FAILED;
        }
}
