/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the host asks of guestd's processes, and a payload inside a line of the local socket: what passes is
 * what the callee may lean on.
 */

#include "fuzz.h"

#include "base/base.h"
#include "guestd/payload.h"
#include "guestd/process-spec.h"
#include "proto/message.h"
#include "proto/name.h"

static void spec(json_object *o)
{
        _cleanup_(process_spec_done) ProcessSpec s = {};
        _cleanup_free_ char *line = NULL;
        const char *why = NULL;

        if (process_spec_parse(o, &s, &why) != WIRE_OK) {
                if (!why || !*why)
                        abort();
                return;
        }
        if (!name_is_id(s.id) || !s.argv || !s.argv[0] || !*s.argv[0] || (s.user && !*s.user))
                abort();
        if (s.cwd && *s.cwd != '/')
                abort();
        for (char **e = s.env; e && *e; e++)
                if (**e == '=' || !strchr(*e, '='))
                        abort();
        line = process_spec_command(&s, 200);
        if (!line || strlen(line) > 200 || !name_is_text(line, SIZE_MAX))
                abort();
}

static void payload(json_object *o)
{
        _cleanup_free_ uint8_t *data = NULL, *again = NULL;
        json_object *copy = json_object_new_object();
        size_t n = 0, n_again = 0;

        if (payload_get(o, &data, &n) == 0) {
                if (n > PAYLOAD_MAX || payload_put(copy, data, n) < 0 ||
                    payload_get(copy, &again, &n_again) < 0 || n_again != n ||
                    (n > 0 && memcmp(data, again, n) != 0))
                        abort();
        }
        json_object_put(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        Message m;

        if (message_parse(data, n, &m) < 0)
                return 0;
        spec(m.json);
        payload(m.json);
        message_done(&m);
        return 0;
}
