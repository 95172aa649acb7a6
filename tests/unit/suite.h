/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The main() of a unit test: one suite, one case, its tests; with what is there before each of them and goes
 * behind it.
 */

#include <check.h>
#include <stdlib.h>

typedef struct SuiteTest {
        const TTest *test;
        int n_rounds; /* with _i from 0; 0: once, without */
} SuiteTest;

static inline int suite_run(const char *name, SFun before, SFun after, const SuiteTest *tests, size_t n)
{
        Suite *suite = suite_create(name);
        TCase *t = tcase_create(name);
        SRunner *runner;
        int n_failed;

        tcase_set_timeout(t, 300); /* for a sanitizer build on a busy machine */
        if (before || after)
                tcase_add_checked_fixture(t, before, after);
        for (size_t i = 0; i < n; i++)
                if (tests[i].n_rounds > 0)
                        tcase_add_loop_test(t, tests[i].test, 0, tests[i].n_rounds);
                else
                        tcase_add_test(t, tests[i].test);
        suite_add_tcase(suite, t);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_ENV);
        n_failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define SUITE(name, ...) SUITE_AROUND(name, NULL, NULL, __VA_ARGS__)

#define SUITE_AROUND(name, setup, teardown, ...)                                                            \
        int main(void)                                                                                      \
        {                                                                                                   \
                const SuiteTest tests[] = { __VA_ARGS__ };                                                  \
                                                                                                            \
                return suite_run(name, setup, teardown, tests, sizeof(tests) / sizeof(tests[0]));           \
        }
