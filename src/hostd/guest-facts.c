/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a guest says about itself in its HELLO_ACK, made fit to be shown: valid UTF-8, bounded, escaped.
 * Nothing here is believed; it is only displayed, and the boot id tells one boot from another for a guest
 * that wants to be told apart.
 */

#include "base/escape.h"
#include "hostd/guest-private.h"

void facts_init(GuestFacts *f)
{
        *f = (GuestFacts){
                .agent_version = g_strdup(""),
                .build = g_strdup(""),
                .boot_id = g_strdup(""),
                .instance = g_strdup(""),
                .hostname = g_strdup(""),
                .kernel = g_strdup(""),
                .capabilities = g_new0(char *, 1),
                .os_release = g_new0(char *, 1),
        };
}

void facts_done(GuestFacts *f)
{
        g_free(f->agent_version);
        g_free(f->build);
        g_free(f->boot_id);
        g_free(f->instance);
        g_free(f->hostname);
        g_free(f->kernel);
        g_strfreev(f->capabilities);
        g_strfreev(f->os_release);
        *f = (GuestFacts){};
}

static char *text_take(const char *untrusted)
{
        _cleanup_free_ char *escaped = escape_text(untrusted, strlen(untrusted), FACT_BYTES_MAX);

        return g_strdup(escaped ? escaped : "");
}

static char *text_get(json_object *o, const char *key)
{
        return text_take(message_str(o, key, ""));
}

static bool is_word(const char *s)
{
        return *s && strlen(s) <= FACT_BYTES_MAX &&
               strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == strlen(s);
}

/* Names of capabilities and keys of os-release are words; others are left out, not repaired. */
static char **capabilities_get(json_object *hello)
{
        GPtrArray *a = g_ptr_array_new();
        json_object *list = message_obj(hello, "capabilities");
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n && a->len < FACTS_MAX; i++) {
                json_object *item = json_object_array_get_idx(list, i);

                if (json_object_is_type(item, json_type_string) && is_word(json_object_get_string(item)))
                        g_ptr_array_add(a, g_strdup(json_object_get_string(item)));
        }
        g_ptr_array_add(a, NULL);
        return (char **)g_ptr_array_free(a, FALSE);
}

static char **os_release_get(json_object *facts)
{
        GPtrArray *a = g_ptr_array_new();
        json_object *o = message_obj(facts, "os_release");

        if (json_object_is_type(o, json_type_object)) {
                json_object_object_foreach(o, key, value)
                {
                        if (a->len >= 2 * FACTS_MAX)
                                break;
                        if (!json_object_is_type(value, json_type_string) || !is_word(key))
                                continue;
                        g_ptr_array_add(a, g_strdup(key));
                        g_ptr_array_add(a, text_take(json_object_get_string(value)));
                }
        }
        g_ptr_array_add(a, NULL);
        return (char **)g_ptr_array_free(a, FALSE);
}

GuestFacts facts_parse(json_object *untrusted_hello)
{
        json_object *facts = message_obj(untrusted_hello, "facts");

        return (GuestFacts){
                .agent_version = text_get(untrusted_hello, "agent"),
                .build = text_get(untrusted_hello, "build"),
                .boot_id = text_get(untrusted_hello, "boot_id"),
                .instance = text_get(untrusted_hello, "instance"),
                .hostname = text_get(facts, "hostname"),
                .kernel = text_get(facts, "kernel"),
                .capabilities = capabilities_get(untrusted_hello),
                .os_release = os_release_get(facts),
        };
}

bool facts_equal(const GuestFacts *a, const GuestFacts *b)
{
        return str_eq(a->agent_version, b->agent_version) && str_eq(a->build, b->build) &&
               str_eq(a->boot_id, b->boot_id) && str_eq(a->instance, b->instance) &&
               str_eq(a->hostname, b->hostname) && str_eq(a->kernel, b->kernel) &&
               g_strv_equal((const char *const *)a->capabilities, (const char *const *)b->capabilities) &&
               g_strv_equal((const char *const *)a->os_release, (const char *const *)b->os_release);
}
