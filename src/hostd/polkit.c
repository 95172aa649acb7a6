/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A question is kept under the message that asked it. The answer counts for the same verb and details only:
 * a domain that was renamed meanwhile is asked for again.
 */

#include "hostd/polkit.h"

#include <glib.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"
#include "base/fs.h"
#include "hostd/bus-error.h"
#include "hostd/bus-peers.h"
#include "hostd/names.h"

#define POLKIT_NAME "org.freedesktop.PolicyKit1"
#define POLKIT_PATH "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_IFACE "org.freedesktop.PolicyKit1.Authority"
#define FLAG_INTERACTION 1u
#define ASKING_MAX 64u                       /* questions of one uid; each may wait for a person */
#define ANSWER_KEPT_USEC (30 * USEC_PER_SEC) /* for a call whose object is gone when it comes again */

typedef enum Answer { ASKING, ALLOWED, DENIED, CHALLENGE } Answer;

typedef struct Question {
        Polkit *polkit;
        sd_bus_message *message;
        char *subject; /* verb and details, in one */
        char *cancellation;
        char uid[16];
        sd_bus_slot *slot;
        Answer answer;
        uint64_t answered_at;
} Question;

struct Polkit {
        sd_bus *bus;
        bool user;
        Quota *quota;
        GHashTable *questions; /* sd_bus_message* → Question* */
        uint64_t n_asked;
};

static void question_free(void *p)
{
        Question *q = p;

        if (q->answer == ASKING && q->slot)
                (void)sd_bus_call_method_async(q->polkit->bus, NULL, POLKIT_NAME, POLKIT_PATH, POLKIT_IFACE,
                                               "CancelCheckAuthorization", NULL, NULL, "s", q->cancellation);
        sd_bus_slot_unref(q->slot);
        quota_release(q->polkit->quota, QUOTA_ASKING, q->uid);
        sd_bus_message_unref(q->message);
        g_free(q->subject);
        g_free(q->cancellation);
        g_free(q);
}

Polkit *polkit_new(sd_bus *bus, bool user, Quota *quota)
{
        Polkit *p = g_new0(Polkit, 1);

        p->bus = sd_bus_ref(bus);
        p->user = user;
        p->quota = quota;
        p->questions = g_hash_table_new_full(NULL, NULL, NULL, question_free);
        return p;
}

Polkit *polkit_free(Polkit *p)
{
        if (!p)
                return NULL;
        g_hash_table_unref(p->questions);
        sd_bus_unref(p->bus);
        g_free(p);
        return NULL;
}

static int on_answer(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        Question *q = userdata;
        int is_authorized = 0, is_challenge = 0;

        q->slot = sd_bus_slot_unref(q->slot);
        q->answer = DENIED; /* no polkit, or a strange one */
        if (!sd_bus_message_is_method_error(reply, NULL) &&
            sd_bus_message_enter_container(reply, 'r', "bba{ss}") > 0 &&
            sd_bus_message_read(reply, "bb", &is_authorized, &is_challenge) > 0)
                q->answer = is_authorized ? ALLOWED : is_challenge ? CHALLENGE : DENIED;
        q->answered_at = fs_now_usec();
        if (bus_peers_redispatch(q->message) < 0) {
                bus_error_reply(q->message, WIRE_FAILED, "hostd cannot take the call up again");
                g_hash_table_remove(q->polkit->questions, q->message);
        }
        return 1;
}

static int append_details(sd_bus_message *call, const PolkitDetails *d)
{
        const struct {
                const char *key, *value;
        } all[] = {
                { "domain_name", d->domain_name },
                { "domain_uuid", d->domain_uuid },
                { "user", d->user },
                { "command", d->command },
                { "path", d->path },
                { "topic", d->topic },
        };
        int r = sd_bus_message_open_container(call, 'a', "{ss}");

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(all); i++)
                if (all[i].value)
                        r = sd_bus_message_append(call, "{ss}", all[i].key, all[i].value);
        return r < 0 ? r : sd_bus_message_close_container(call);
}

static char *subject_of(const char *verb, const PolkitDetails *d)
{
        const char *all[] = { verb, d->domain_name, d->domain_uuid, d->user, d->command, d->path, d->topic };
        GString *s = g_string_new(NULL);

        for (size_t i = 0; i < ELEMENTSOF(all); i++) /* the length makes it one-to-one */
                g_string_append_printf(s, "%zu:%s", all[i] ? strlen(all[i]) + 1 : 0, all[i] ? all[i] : "");
        return g_string_free(s, FALSE);
}

static int ask(Polkit *p, sd_bus_message *m, const Caller *caller, const char *verb, const PolkitDetails *d,
               char *subject)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        g_autofree char *cancellation = g_strdup_printf("vmferry-%" PRIu64, ++p->n_asked);
        bool interactive = sd_bus_message_get_allow_interactive_authorization(m) > 0;
        g_autofree char *action = g_strconcat(POLKIT_PREFIX, verb, NULL);
        char uid[16];
        Question *q;
        int r;

        if ((r = sd_bus_message_new_method_call(p->bus, &call, POLKIT_NAME, POLKIT_PATH, POLKIT_IFACE,
                                                "CheckAuthorization")) < 0 ||
            (r = sd_bus_message_append(call, "(sa{sv})s", "system-bus-name", 1, "name", "s",
                                       sd_bus_message_get_sender(m), action)) < 0 ||
            (r = append_details(call, d)) < 0 ||
            (r = sd_bus_message_append(call, "us", interactive ? FLAG_INTERACTION : 0, cancellation)) < 0)
                return r;
        (void)snprintf(uid, sizeof uid, "%" PRIu32, (uint32_t)caller->uid);
        if (!quota_take(p->quota, QUOTA_ASKING, uid, ASKING_MAX))
                return -EDQUOT;

        q = g_new0(Question, 1);
        q->polkit = p;
        q->message = sd_bus_message_ref(m);
        q->subject = g_strdup(subject);
        q->cancellation = g_steal_pointer(&cancellation);
        (void)snprintf(q->uid, sizeof q->uid, "%s", uid);
        g_hash_table_insert(p->questions, m, q);
        r = sd_bus_call_async(p->bus, &q->slot, call, on_answer, q, UINT64_MAX);
        if (r < 0) {
                q->answer = DENIED; /* nothing to withdraw */
                g_hash_table_remove(p->questions, m);
        }
        return r;
}

static gboolean is_stale(void *key, void *value, void *userdata)
{
        const Question *q = value;
        return q->answer != ASKING && fs_now_usec() - q->answered_at > ANSWER_KEPT_USEC;
}

int polkit_check(Polkit *p, sd_bus_message *m, const Caller *caller, const char *verb,
                 const PolkitDetails *details, sd_bus_error *error)
{
        g_autofree char *subject = NULL;
        Question *q;
        int r;

        if (p->user) {
                if (caller->uid == getuid())
                        return 1;
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED,
                                         "This instance serves uid %" PRIu32 " alone", (uint32_t)getuid());
        }
        if (caller->uid == 0)
                return 1;

        subject = subject_of(verb, details);
        q = g_hash_table_lookup(p->questions, m);
        if (q && q->answer == ASKING)
                return 0;
        if (q && str_eq(q->subject, subject)) {
                Answer answer = q->answer;
                g_hash_table_remove(p->questions, m);
                if (answer == ALLOWED)
                        return 1;
                if (answer == CHALLENGE && sd_bus_message_get_allow_interactive_authorization(m) <= 0)
                        return sd_bus_error_setf(
                                error, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED,
                                "Interactive authentication required for " POLKIT_PREFIX "%s", verb);
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED,
                                         "polkit does not allow " POLKIT_PREFIX "%s", verb);
        }
        if (q)
                g_hash_table_remove(p->questions, m);
        g_hash_table_foreach_remove(p->questions, is_stale, NULL);

        r = ask(p, m, caller, verb, details, subject);
        if (r == -EDQUOT)
                return bus_error_set(error, WIRE_LIMITS_EXCEEDED,
                                     "User %" PRIu32 " has %u calls waiting for an authorisation",
                                     (uint32_t)caller->uid, ASKING_MAX);
        if (r < 0)
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED, "polkit cannot be asked: %s",
                                         g_strerror(-r));
        return 0;
}

static gboolean is_of(void *key, void *value, void *userdata)
{
        return str_eq(sd_bus_message_get_sender(key), userdata);
}

void polkit_forget(Polkit *p, const char *sender)
{
        g_hash_table_foreach_remove(p->questions, is_of, (void *)sender);
}
