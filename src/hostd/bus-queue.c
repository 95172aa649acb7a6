/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The Manager's methods about what waits for guests (ListQueue, DropQueued) and happens to them
 * (ListActions), and the answers to calls with "queue".
 */

#include <glib.h>
#include <inttypes.h>

#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/bus-room.h"
#include "hostd/log.h"
#include "hostd/names.h"

typedef struct Listing {
        sd_bus_message *reply;
        size_t left;
        sd_bus_error *error;
        int r;
} Listing;

static void list_item(void *userdata, const Job *j, const char *description, uint64_t created_at,
                      uint64_t expires_at)
{
        _cleanup_free_ char *text = job_text(description);
        Listing *l = userdata;

        if (l->r >= 0 && (l->r = bus_room_element(&l->left, l->error, text, NULL)) >= 0)
                l->r = sd_bus_message_append(l->reply, "(usstt)", j->id, job_kind_to_string(j->kind), text,
                                             created_at, expires_at);
}

int bus_method_list_queue(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        PolkitDetails details = {};
        Bus *b = userdata;
        Listing l;
        Guest *g;
        int r;

        if ((r = bus_read_guest(b, m, &g, &details)) < 0)
                return r;
        if ((r = bus_authorize(b, m, "inspect", &details, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if (!g)
                return bus_no_such_guest(userdata, error, details.domain_name);
        if ((r = sd_bus_message_new_method_return(m, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(usstt)")) < 0)
                return r;
        l = (Listing){ .reply = reply, .left = BUS_ROOM, .error = error };
        queue_each(b->queue, guest_uuid(g), list_item, &l);
        if (l.r < 0 || (r = sd_bus_message_close_container(reply)) < 0)
                return l.r < 0 ? l.r : r;
        return sd_bus_send(NULL, reply, NULL);
}

int bus_method_drop_queued(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        PolkitDetails details = {};
        const Caller *caller;
        Bus *b = userdata;
        uint32_t id;
        Job *j;
        int r;

        if ((r = sd_bus_message_read_basic(m, 'u', &id)) < 0)
                return r;
        if ((r = bus_peers_find(b->peers, m, &caller, error)) <= 0)
                return r < 0 ? r : 1;
        j = queue_has(b->queue, id) ? jobs_find(b->jobs, id) : NULL;
        if (j) {
                details.domain_name = j->guest_name;
                details.domain_uuid = j->guest_uuid;
        }
        if (!j || j->caller->uid != caller->uid)
                if ((r = bus_authorize(b, m, "manage", &details, NULL, error)) <= 0)
                        return r < 0 ? r : 1;
        if (!j)
                return bus_error_set(error, WIRE_NOT_FOUND,
                                     "Nothing with the id %" PRIu32 " is in the queue", id);
        if ((r = sd_bus_reply_method_return(m, NULL)) < 0)
                return r;
        jobs_cancel(b->jobs, j);
        return 1;
}

/* Which job it has become, where the answer has no place for that. To the caller alone, before the answer.
 */
static void tell_queued(sd_bus_message *call, const Job *j)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_free_ char *path = bus_job_path(j->id);
        int r = sd_bus_message_new_signal(sd_bus_message_get_bus(call), &m, BUS_PATH, IFACE_MANAGER,
                                          "JobQueued");

        if (r >= 0)
                r = sd_bus_message_set_destination(m, sd_bus_message_get_sender(call));
        if (r >= 0)
                r = sd_bus_message_append(m, "uo", j->id, path);
        if (r >= 0)
                r = sd_bus_send(NULL, m, NULL);
        if (r < 0 && r != -ENOTCONN)
                log_warning("Cannot tell of a queued job: %s", g_strerror(-r));
}

/* What the method would have answered is not known yet: empty, but for ids. */
void bus_on_queued(void *userdata, WireError error, const char *text, const Job *j)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata;
        const char *member = sd_bus_message_get_member(call);
        bool for_people = str_eq(sd_bus_message_get_interface(call), IFACE_MANAGER);
        int r;

        if (error != WIRE_OK) {
                bus_error_reply(call, error, text);
                return;
        }
        tell_queued(call, j);
        if (str_eq(member, "Send"))
                r = sd_bus_reply_method_return(call, "t", (uint64_t)j->id);
        else if (str_eq(member, "Call"))
                r = for_people ? sd_bus_reply_method_return(call, "s", "")
                               : sd_bus_reply_method_return(call, "ay", 0);
        else if (str_eq(member, "Run"))
                r = for_people ? sd_bus_reply_method_return(call, "iss", 0, "", "")
                               : sd_bus_reply_method_return(call, "iayay", 0, 0, 0);
        else {
                _cleanup_free_ char *path = bus_job_path(j->id);
                r = sd_bus_reply_method_return(call, "uo", j->id, path);
        }
        if (r < 0 && r != -ENOTCONN)
                log_warning("Cannot answer %s: %s", member, g_strerror(-r));
}

static void list_action(void *userdata, const Action *a)
{
        g_autofree char *on = a->on == ACTION_ON_MESSAGE ? g_strdup_printf("message:%s", a->topic)
                                                         : g_strdup(action_on_to_string(a));
        _cleanup_free_ char *description = job_text(a->description), *name = job_text(a->name),
                            *file = job_text(a->file);
        Listing *l = userdata;

        if (l->r < 0 || (l->r = bus_room_element(&l->left, l->error, name, file, description, on, NULL)) < 0)
                return;
        for (char **p = a->guests; p && *p; p++)
                if ((l->r = bus_room_element(&l->left, l->error, *p, NULL)) < 0)
                        return;
        if ((l->r = sd_bus_message_open_container(l->reply, 'r', "sssssasa(ssts)")) < 0 ||
            (l->r = sd_bus_message_append(l->reply, "sssss", name, file, description, on,
                                          action_once_to_string(a->once))) < 0 ||
            (l->r = sd_bus_message_append_strv(l->reply, a->guests)) < 0)
                return;
        l->r = sd_bus_message_open_container(l->reply, 'a', "(ssts)");
}

static void list_result(void *userdata, const ActionResult *r)
{
        Listing *l = userdata;

        if (l->r >= 0 && (l->r = bus_room_element(&l->left, l->error, r->guest_name, r->reason, NULL)) >= 0)
                l->r = sd_bus_message_append(l->reply, "(ssts)", r->guest_name, r->result, r->at, r->reason);
}

static void list_action_end(void *userdata)
{
        Listing *l = userdata;

        if (l->r >= 0 && (l->r = sd_bus_message_close_container(l->reply)) >= 0)
                l->r = sd_bus_message_close_container(l->reply);
}

int bus_method_list_actions(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        static const ActionsEach each = { .action = list_action,
                                          .result = list_result,
                                          .action_end = list_action_end };
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Bus *b = userdata;
        Listing l;
        int r;

        if ((r = bus_authorize(b, m, "inspect", &(PolkitDetails){}, NULL, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = sd_bus_message_new_method_return(m, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(sssssasa(ssts))")) < 0)
                return r;
        l = (Listing){ .reply = reply, .left = BUS_ROOM, .error = error };
        actions_each(b->actions, &each, &l);
        if (l.r < 0 || (r = sd_bus_message_close_container(reply)) < 0)
                return l.r < 0 ? l.r : r;
        return sd_bus_send(NULL, reply, NULL);
}
