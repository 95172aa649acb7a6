/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The reader of configuration and its values. Nothing comes out twice, lines only grow, and strings are
 * ended.
 */

#include "fuzz.h"

#include "base/base.h"
#include "base/escape.h"
#include "base/ini.h"

static int on_assign(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                     const char *value)
{
        unsigned *last = userdata;
        uint64_t v;
        bool b;

        if (line <= *last || strchr(section, '\n') || !key != !value)
                abort();
        *last = line;
        if (!key)
                return 0;
        if (!*key || strchr(value, '\n'))
                abort();
        (void)ini_bool(value, &b);
        (void)ini_usec(value, &v);
        (void)ini_size(value, &v);
        return 0;
}

static void on_complain(void *userdata, const char *file, unsigned line, const char *why)
{
        if (line == 0 || !*why)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        unsigned last = 0;
        char *text;

        (void)ini_parse("fuzz", (const char *)data, n, on_assign, on_complain, &last);
        text = escape_text((const char *)data, n, n / 2);
        if (text && strlen(text) > n / 2)
                abort();
        free(text);
        return 0;
}
