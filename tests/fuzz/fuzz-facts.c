/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a guest says of itself, made into properties: all of it valid on the bus, bounded, and shown without
 * control characters.
 */

#include "fuzz.h"

#include "hostd/guest-private.h"
#include "proto/name.h"

static void check(const char *s)
{
        if (!s || !name_is_text(s, FACT_BYTES_MAX) || strpbrk(s, "\t\n\x7f"))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        GuestFacts facts, again;
        size_t n_words = 0;
        Message m;

        if (message_parse(data, n, &m) < 0)
                return 0;
        facts = facts_parse(m.json);
        check(facts.agent_version);
        check(facts.build);
        check(facts.boot_id);
        check(facts.instance);
        check(facts.hostname);
        check(facts.kernel);
        for (char **c = facts.capabilities; *c; c++, n_words++)
                check(*c);
        if (n_words > FACTS_MAX)
                abort();
        for (n_words = 0; facts.os_release[n_words]; n_words++)
                check(facts.os_release[n_words]);
        if (n_words % 2 || n_words > 2 * FACTS_MAX)
                abort();
        again = facts_parse(m.json);
        if (!facts_equal(&facts, &again))
                abort();
        facts_done(&facts);
        facts_done(&again);
        message_done(&m);
        return 0;
}
