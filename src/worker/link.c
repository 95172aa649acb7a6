/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The socket to hostd. What goes there may have been a peer's text or a name in any bytes: it is escaped
 * here.
 */

#include "worker/link.h"

#include <sys/socket.h>

#include "base/base.h"
#include "base/escape.h"
#include "proto/digest.h"
#include "proto/entry.h"

#define PACKET_MAX 65536u
#define TEXT_MAX 4096u

int link_receive(bool wait, json_object **ret)
{
        static char packet[PACKET_MAX];
        struct json_tokener *tokener;
        json_object *o;
        ssize_t n;

        do
                n = recv(LINK_FD, packet, sizeof packet, MSG_TRUNC | (wait ? 0 : MSG_DONTWAIT));
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return -EAGAIN;
        if (n <= 0 || (size_t)n > sizeof packet)
                return -ECONNRESET;
        tokener = json_tokener_new();
        if (!tokener)
                return -ECONNRESET;
        o = json_tokener_parse_ex(tokener, packet, (int)n);
        json_tokener_free(tokener);
        if (!json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                return -ECONNRESET;
        }
        *ret = o;
        return 0;
}

void link_send(json_object *o)
{
        size_t n;
        const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &n);

        /* A hostd that is gone is noticed where its packets are read. */
        if (text)
                (void)send(LINK_FD, text, n, MSG_NOSIGNAL);
        json_object_put(o);
}

json_object *link_packet_new(const char *what)
{
        json_object *o = json_object_new_object();

        link_put_text(o, "do", what);
        return o;
}

void link_put_text(json_object *o, const char *key, const char *untrusted)
{
        _cleanup_free_ char *text = escape_text(untrusted, strlen(untrusted), TEXT_MAX);

        (void)json_object_object_add(o, key, json_object_new_string(text ? text : ""));
}

void link_put_size(json_object *o, const char *key, uint64_t value)
{
        if (value <= INT64_MAX)
                (void)json_object_object_add(o, key, json_object_new_int64((int64_t)value));
}

void link_send_done(const LinkResult *result)
{
        json_object *o = link_packet_new("done");
        char digest[DIGEST_TEXT_SIZE];

        if (result->error != WIRE_OK) {
                link_put_text(o, "error", wire_error_to_string(result->error));
                link_put_text(o, "message", result->text ? result->text : "");
                link_put_text(o, "path", result->path ? result->path : "");
        }
        link_put_size(o, "bytes", result->n_bytes);
        link_put_size(o, "files", result->n_files);
        link_put_size(o, "failed", result->n_failed);
        if (result->has_digest) {
                digest_format(result->digest, digest);
                link_put_text(o, "digest", digest);
        }
        link_send(o);
}
