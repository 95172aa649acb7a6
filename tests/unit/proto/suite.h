/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The main() of a unit test: one suite, one case, its tests.
 */

#include <check.h>
#include <stdlib.h>

static inline int suite_run(const char *name, const TTest *const *tests, size_t n)
{
        Suite *suite = suite_create(name);
        TCase *t = tcase_create(name);
        SRunner *runner;
        int n_failed;

        tcase_set_timeout(t, 60);
        for (size_t i = 0; i < n; i++)
                tcase_add_test(t, tests[i]);
        suite_add_tcase(suite, t);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_ENV);
        n_failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define SUITE(name, ...)                                                                                    \
        int main(void)                                                                                      \
        {                                                                                                   \
                const TTest *const tests[] = { __VA_ARGS__ };                                               \
                                                                                                            \
                return suite_run(name, tests, sizeof(tests) / sizeof(tests[0]));                            \
        }
