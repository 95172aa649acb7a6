/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "proto/wire-error.h"

#include "base/base.h"
#include "../suite.h"

START_TEST(test_names)
{
        for (int i = 1; i < _WIRE_ERROR_MAX; i++) {
                const char *name = wire_error_to_string((WireError)i);

                ck_assert_ptr_nonnull(name);
                ck_assert_int_eq(wire_error_from_string(name), i);
        }
        ck_assert_str_eq(wire_error_to_string(WIRE_NOT_READY), "NotReady");
        ck_assert_str_eq(wire_error_to_string((WireError)4711), "Failed");
        ck_assert_str_eq(wire_error_to_string((WireError)-1), "Failed");
}
END_TEST

START_TEST(test_foreign_names)
{
        ck_assert_int_eq(wire_error_from_string("Gremlins"), WIRE_FAILED);
        ck_assert_int_eq(wire_error_from_string(""), WIRE_FAILED);
        ck_assert_int_eq(wire_error_from_string(NULL), WIRE_FAILED);
        /* an error can't say that it is none */
        ck_assert_int_eq(wire_error_from_string("OK"), WIRE_FAILED);
}
END_TEST

START_TEST(test_errno)
{
        static const struct {
                int error;
                WireError wire;
        } table[] = {
                { 0, WIRE_OK },
                { ENOENT, WIRE_NOT_FOUND },
                { EEXIST, WIRE_EXISTS },
                { ENOSPC, WIRE_NO_SPACE },
                { EDQUOT, WIRE_NO_SPACE },
                { EACCES, WIRE_PERMISSION_DENIED },
                { EPERM, WIRE_PERMISSION_DENIED },
                { EROFS, WIRE_PERMISSION_DENIED },
                { ELOOP, WIRE_INVALID_PATH },
                { ENOTDIR, WIRE_INVALID_PATH },
                { E2BIG, WIRE_TOO_LARGE },
                { ETIMEDOUT, WIRE_TIMEOUT },
                { EMFILE, WIRE_LIMITS_EXCEEDED },
                { EIO, WIRE_FAILED },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                ck_assert_int_eq(wire_error_from_errno(table[i].error), table[i].wire);
                ck_assert_int_eq(wire_error_from_errno(-table[i].error), table[i].wire);
        }
}
END_TEST

SUITE("wire-error",
      { test_names },
      { test_foreign_names },
      { test_errno })
