/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Messages: what is taken can be read by every accessor and given on.
 */

#include "fuzz.h"

#include "base/base.h"
#include "proto/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        const char *text;
        uint8_t *body;
        Message m;
        size_t n_body;
        int r;

        if (message_parse(data, n, &m) < 0)
                return 0;
        json_object_object_foreach(m.json, key, value)
        {
                char **strv;

                (void)value;
                (void)strlen(message_str(m.json, key, ""));
                (void)message_int(m.json, key, 0);
                (void)message_bool(m.json, key, false);
                (void)message_obj(m.json, key);
                if (message_strv(m.json, key, 16, &strv) == 0)
                        (void)message_strv_free(strv);
        }
        (void)message_get_error(m.json, &text);
        if (!text)
                abort();
        r = message_format(m.json, m.payload, m.n_payload, &body, &n_body);
        if (r == 0) {
                Message again;

                /* what we took and give on, a peer of ours takes too */
                if (message_parse(body, n_body, &again) < 0 || again.n_payload != m.n_payload)
                        abort();
                message_done(&again);
                free(body);
        } else if (r != -E2BIG && r != -EILSEQ) {
                abort();
        }
        message_done(&m);
        return 0;
}
