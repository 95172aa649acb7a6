/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/bus-room.h"

#include <stdarg.h>

#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"

#define STRING_BYTES 8u   /* beside its text: length, NUL, alignment */
#define ELEMENT_BYTES 72u /* alignment, numbers, and words of ours */
#define OBJECT_BYTES                                                                                        \
        1536u /* of a guest or a job in GetManagedObjects: path, names and types of all, numbers */

bool bus_room_take(size_t *left, size_t n)
{
        if (n > *left)
                return false;
        *left -= n;
        return true;
}

static int too_large(sd_bus_error *error)
{
        return bus_error_set(
                error, WIRE_TOO_LARGE,
                "The answer is larger than the %u MiB that one message on the bus may have: ask "
                "for less at once",
                BUS_MESSAGE_MAX >> 20);
}

static bool take_string(size_t *left, const char *s)
{
        return bus_room_take(left, (s ? strlen(s) : 0) + STRING_BYTES);
}

static bool take_strings(size_t *left, char *const *list)
{
        for (; list && *list; list++)
                if (!take_string(left, *list))
                        return false;
        return true;
}

int bus_room_element(size_t *left, sd_bus_error *error, const char *first, ...)
{
        bool fits = bus_room_take(left, ELEMENT_BYTES);
        va_list ap;

        va_start(ap, first);
        for (const char *s = first; s && fits; s = va_arg(ap, const char *))
                fits = take_string(left, s);
        va_end(ap);
        return fits ? 0 : too_large(error);
}

/* GetManagedObjects */

static bool take_guest(size_t *left, const Guest *g)
{
        const GuestFacts *f = guest_facts(g);
        const Domain *d = guest_domain(g);

        return bus_room_take(left, OBJECT_BYTES) && take_string(left, guest_name(g)) &&
               take_string(left, guest_state_reason(g)) && take_string(left, d->control_socket) &&
               take_string(left, d->data_socket) && take_string(left, f->agent_version) &&
               take_string(left, f->build) && take_string(left, f->boot_id) &&
               take_string(left, f->hostname) && take_string(left, f->kernel) &&
               take_strings(left, f->capabilities) && take_strings(left, f->os_release);
}

static bool take_job(size_t *left, const Job *j)
{
        return bus_room_take(left, OBJECT_BYTES) && take_string(left, j->guest_name) &&
               take_string(left, j->source) && take_string(left, j->destination) &&
               take_string(left, j->digest) && take_string(left, j->error_message) &&
               (!j->process || take_strings(left, j->process->argv));
}

int bus_room_objects(Bus *b, sd_bus_error *error)
{
        size_t left = BUS_ROOM;
        GHashTableIter i;
        void *p;

        g_hash_table_iter_init(&i, host_guests(b->host));
        while (g_hash_table_iter_next(&i, NULL, &p))
                if (!take_guest(&left, p))
                        return too_large(error);
        g_hash_table_iter_init(&i, jobs_all(b->jobs));
        while (g_hash_table_iter_next(&i, NULL, &p))
                if (!((Job *)p)->hidden && !take_job(&left, p))
                        return too_large(error);
        return 0;
}
