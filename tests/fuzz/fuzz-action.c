/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * An action file. What is taken is whole: guests, steps, and of each step what its verb needs; what is not
 * taken was complained about.
 */

#include "fuzz.h"

#include "base/base.h"
#include "hostd/action.h"
#include "proto/name.h"

static void on_complain(void *userdata, const char *file, unsigned line, const char *why)
{
        unsigned *n = userdata;

        if (!*why)
                abort();
        (*n)++;
}

static void look(const ActionStep *s)
{
        bool copies = s->verb == STEP_PUSH || s->verb == STEP_PULL;

        if (!s->has_verb || !s->name || s->line == 0)
                abort();
        if (copies && (!s->from || !s->to || !*s->from || !*s->to))
                abort();
        if (s->verb == STEP_RUN && (!s->argv || !s->argv[0]))
                abort();
        if ((s->verb == STEP_SEND || s->verb == STEP_CALL) && (!name_is_topic(s->topic) || !s->text))
                abort();
        if (s->mode != UINT32_MAX && s->mode > 07777)
                abort();
        for (char **e = s->env; e && *e; e++)
                if (!strchr(*e, '=') || **e == '=')
                        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        unsigned n_complaints = 0;
        Action *a = NULL;
        int r = action_parse("/etc/vmferry/actions.d/fuzz.action", (const char *)data, n, on_complain,
                             &n_complaints, &a);

        if (r < 0) {
                if (n_complaints == 0)
                        abort();
                return 0;
        }
        if (!str_eq(a->name, "fuzz") || !a->guests || !a->guests[0] || a->n_steps == 0 || !a->description)
                abort();
        if ((a->on == ACTION_ON_MESSAGE) != (a->topic != NULL))
                abort();
        for (size_t i = 0; i < a->n_steps; i++)
                look(&a->steps[i]);
        (void)action_is_for(a, "web-1", "00000000-0000-4000-8000-000000000001");
        if (!action_on_to_string(a) || !action_once_to_string(a->once))
                abort();
        (void)action_free(a);
        return 0;
}
