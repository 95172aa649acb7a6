/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Upgrade: tells a guest's daemon to put a program in its place that was pushed before. The answer is the
 * guest's word that the program is good and in place; whether it came up shows in the guest's properties,
 * AgentBuild above all: the guest goes back to the old program by itself.
 */

#include <glib.h>
#include <json-c/json.h>

#include "hostd/audit.h"
#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/bus-options.h"
#include "proto/digest.h"
#include "proto/name.h"

#define ANSWER_USEC (45 * USEC_PER_SEC) /* copying and trying out, on a slow disk */

typedef struct UpgradeCall {
        sd_bus_message *call;
        char *guest_uuid, *guest_name, *path, *digest;
        Caller *caller;
} UpgradeCall;

static bool is_digest(const char *s)
{
        return strlen(s) == DIGEST_TEXT_SIZE - 1 && str_has_prefix(s, "xxh64:") &&
               strspn(s + strlen("xxh64:"), "0123456789abcdef") == DIGEST_TEXT_SIZE - 1 - strlen("xxh64:");
}

static void on_answer(void *userdata, WireError error, const char *text, const Message *m)
{
        UpgradeCall *u = userdata;

        audit_write(&(AuditEntry){
                .verb = "upgrade",
                .caller = u->caller,
                .guest_uuid = u->guest_uuid,
                .guest_name = u->guest_name,
                .path = u->path,
                .digest = u->digest,
                .error = error,
                .text = text,
        });
        if (error != WIRE_OK)
                bus_error_reply(u->call, error, text);
        else {
                const char *version = message_str(m->json, "version", "");
                (void)sd_bus_reply_method_return(u->call, "s",
                                                 name_is_text(version, FACT_BYTES_MAX) ? version : "");
        }
        sd_bus_message_unref(u->call);
        caller_free(u->caller);
        g_free(u->guest_uuid);
        g_free(u->guest_name);
        g_free(u->path);
        g_free(u->digest);
        g_free(u);
}

int bus_verb_upgrade(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        static const BusOption options[] = { { "timeout", "t", 0 }, {} };
        const char *path, *digest;
        uint64_t timeout_usec = 0;
        PolkitDetails details = {};
        const Caller *caller;
        g_autofree char *text = NULL;
        json_object *o;
        WireError e;
        Guest *g;
        int r;

        if ((r = bus_read_guest(userdata, m, &g, &details)) < 0 ||
            (r = sd_bus_message_read(m, "ss", &path, &digest)) < 0 ||
            (r = bus_options_read(m, options, &timeout_usec, error)) < 0)
                return r;
        if (!name_is_absolute_path(path))
                return bus_error_set(error, WIRE_INVALID_PATH,
                                     "The program's path in the guest has to be absolute");
        if (!is_digest(digest))
                return bus_error_set(error, WIRE_INVALID_ARGS,
                                     "The digest is written as xxh64: and 16 hexadecimal digits");
        details.path = path;
        if ((r = bus_authorize(userdata, m, "manage", &details, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if ((e = jobs_check_guest(g, &text)) != WIRE_OK)
                return bus_error_set(error, e, "%s", text);
        if (!guest_has_capability(g, "upgrade"))
                return bus_error_set(
                        error, WIRE_UNSUPPORTED,
                        "Guest %s: its daemon cannot be upgraded: it is too old, or its policy forbids it "
                        "(AllowUpgrade= of guestd.conf, and what that needs)",
                        guest_name(g));
        o = json_object_new_object();
        json_object_object_add(o, "method", json_object_new_string("agent.upgrade"));
        json_object_object_add(o, "path", json_object_new_string(path));
        json_object_object_add(o, "digest", json_object_new_string(digest));
        if (timeout_usec > 0)
                json_object_object_add(
                        o, "timeout",
                        json_object_new_int64((int64_t)MIN(timeout_usec, (uint64_t)INT64_MAX)));
        UpgradeCall *u = g_new(UpgradeCall, 1);
        *u = (UpgradeCall){
                .call = sd_bus_message_ref(m),
                .guest_uuid = g_strdup(guest_uuid(g)),
                .guest_name = g_strdup(guest_name(g)),
                .path = g_strdup(path),
                .digest = g_strdup(digest),
                .caller = caller_copy(caller),
        };
        (void)guest_request(g, o, NULL, 0, ANSWER_USEC, on_answer, u);
        return 1;
}
