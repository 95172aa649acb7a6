/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See reports.h. A packet is sent when it is large enough, and whenever progress is told.
 */

#include "worker/reports.h"

#include "base/base.h"
#include "worker/link.h"

#define PACKET_BYTES 16384u /* of text; JSON may make it twice as long */

void reports_flush(Reports *r)
{
        json_object *o;

        if (!r->entries)
                return;
        o = link_packet_new("reports");
        (void)json_object_object_add(o, "entries", TAKE(r->entries));
        r->n_told += r->n_pending;
        r->n_pending = 0;
        link_send(o);
}

void reports_add(Reports *r, WireError error, const char *untrusted_text, const char *untrusted_path)
{
        json_object *o;

        if ((error != WIRE_OK && !r->is_tree) || r->n_told >= REPORTS_BYTES_MAX)
                return;
        if (!r->entries)
                r->entries = json_object_new_array();
        o = json_object_new_object();
        link_put_text(o, "path", untrusted_path);
        link_put_text(o, "error", error == WIRE_OK ? "" : wire_error_to_string(error));
        link_put_text(o, "message", untrusted_text);
        (void)json_object_array_add(r->entries, o);
        r->n_pending += strlen(untrusted_path) + strlen(untrusted_text) + 16;
        if (r->n_pending >= PACKET_BYTES)
                reports_flush(r);
}
