/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * In the guest, in guestd's place: owns both ports, and is honest until the host calls its topic "worst"
 * with a number of seconds. For so long it does its worst, a different kind of it every second: floods of
 * calls, messages, notes, pings and garbage, handshakes without end, nothing read, answers late and in the
 * wrong order, streams of nonsense. Then it is honest again.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "proto/session.h"

#define HELD_MAX 64

typedef enum Worst {
        CALLS,
        MESSAGES,
        NOTES,
        PINGS,
        GARBAGE,
        HANDSHAKES,
        NEVER_READS,
        LATE,
        WORST_MAX
} Worst;

typedef struct Side {
        SessionPort kind;
        int fd;
        Session *session;
        const uint8_t *frame;
        size_t n_frame;
        uint32_t stream; /* the one opened last */
} Side;

static Side control = { .kind = SESSION_CONTROL }, data = { .kind = SESSION_DATA };
static uint64_t worst_since, worst_until;
static uint32_t held[HELD_MAX];
static unsigned n_held;
static uint64_t n_said;

static uint64_t now_usec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static bool is_bad(void)
{
        return now_usec() < worst_until;
}

static Worst kind_of_now(void)
{
        return (Worst)((now_usec() - worst_since) / USEC_PER_SEC % WORST_MAX);
}

static void random_bytes(void *userdata, void *buf, size_t n)
{
        while (getrandom(buf, n, 0) != (ssize_t)n)
                ;
}

static int open_port(const char *name)
{
        char path[64], text[128];

        for (int i = 0; i < 10 * 32; i++) {
                int device = i / 32, port = i % 32;
                bool is_it;
                FILE *f;

                (void)snprintf(path, sizeof(path), "/sys/class/virtio-ports/vport%dp%d/name", device, port);
                f = fopen(path, "r");
                if (!f)
                        continue;
                is_it = fgets(text, sizeof(text), f) && strncmp(text, name, strlen(name)) == 0;
                (void)fclose(f);
                (void)snprintf(path, sizeof(path), "/dev/vport%dp%d", device, port);
                if (is_it)
                        return open(path, O_RDWR | O_NONBLOCK);
        }
        return -ENODEV;
}

/* 1: all is written. */
static int flush(Side *s)
{
        for (;;) {
                ssize_t n;

                if (s->n_frame == 0 && session_output_next(s->session, &s->frame, &s->n_frame) == 0)
                        return 1;
                n = write(s->fd, s->frame, s->n_frame);
                if (n < 0)
                        return 0;
                s->frame += n;
                s->n_frame -= (size_t)n;
        }
}

static void answer(uint32_t id, const Message *m)
{
        const char *topic = message_str(m->json, "topic", "");
        json_object *json = json_object_new_object();

        if (str_eq(topic, "worst") && m->n_payload > 0 && m->n_payload < 16) {
                char text[16] = { 0 };

                memcpy(text, m->payload, m->n_payload);
                worst_since = now_usec();
                worst_until = worst_since + strtoull(text, NULL, 10) * USEC_PER_SEC;
        } else if (is_bad() && n_held < HELD_MAX) {
                held[n_held++] = id;
                json_object_put(json);
                return;
        }
        (void)session_reply(control.session, id, json, m->payload, m->n_payload);
        json_object_put(json);
}

static void take(Side *s)
{
        SessionEvent e;
        uint8_t *buf;
        size_t room;
        ssize_t n;

        session_input_space(s->session, &buf, &room);
        n = read(s->fd, buf, room);
        if (n <= 0)
                return;
        session_input_commit(s->session, (size_t)n, now_usec());
        while (session_next_event(s->session, &e) > 0) {
                if (e.type == SESSION_EVENT_REQUEST)
                        answer(e.id, e.message);
                else if (e.type == SESSION_EVENT_STREAM_OPEN && is_bad()) {
                        s->stream = e.id;
                        (void)session_stream_accept(s->session, e.id, NULL);
                } else if (e.type == SESSION_EVENT_STREAM_OPEN)
                        (void)session_stream_reset(s->session, e.id, WIRE_UNSUPPORTED, "no files here");
        }
}

/* Content of nothing, as long as there is room for it. */
static void stream_nonsense(Side *s)
{
        static uint8_t frame[FRAME_MAX];
        size_t room;

        while (s->stream && s->n_frame == 0 && session_stream_is_open(s->session, s->stream) &&
               (room = session_stream_room(s->session, s->stream)) > 0) {
                random_bytes(NULL, frame + FRAME_HEADER_SIZE, 64);
                s->n_frame = session_stream_seal(s->session, s->stream, frame, room);
                s->frame = frame;
                if (flush(s) == 0)
                        return;
        }
}

static void say(const char *method, bool is_note)
{
        static const char payload[512];

        for (int i = 0; i < 256; i++) {
                json_object *json = json_object_new_object();
                uint32_t id = 0;
                int r;

                json_object_object_add(json, "method", json_object_new_string(method));
                json_object_object_add(json, "topic", json_object_new_string("worst"));
                json_object_object_add(json, "id", json_object_new_int64((int64_t)++n_said));
                r = is_note ? session_notify(control.session, json, NULL, 0)
                            : session_request(control.session, json, payload, sizeof(payload), &id);
                json_object_put(json);
                if (id)
                        session_forget(control.session, id);
                if (r < 0 || flush(&control) == 0)
                        return;
        }
}

static void spoil(void)
{
        uint8_t noise[16384];

        if (control.n_frame > 0 && flush(&control) == 0 && kind_of_now() != GARBAGE)
                return;
        switch (kind_of_now()) {
        case CALLS:
        case NEVER_READS:
                say("message.call", false);
                break;
        case MESSAGES:
                say("message.publish", false);
                break;
        case NOTES:
                say("process.exited", true);
                break;
        case PINGS:
                for (int i = 0; i < 256 && session_ping(control.session, n_said++) == 0 && flush(&control);
                     i++)
                        ;
                break;
        case GARBAGE:
                random_bytes(NULL, noise, sizeof(noise));
                (void)!write(control.fd, noise, sizeof(noise));
                (void)!write(data.fd, noise, sizeof(noise));
                break;
        case HANDSHAKES:
                session_open(control.session, now_usec());
                session_open(data.session, now_usec());
                (void)flush(&data);
                break;
        case LATE:
                while (n_held > 0 && now_usec() % USEC_PER_SEC > USEC_PER_SEC / 2) {
                        json_object *json = json_object_new_object();

                        (void)session_reply(control.session, held[--n_held], json, NULL, 0);
                        json_object_put(json);
                }
                break;
        case WORST_MAX:
                break;
        }
        stream_nonsense(&data);
}

static int start(Side *s, const char *name, json_object *hello)
{
        SessionConfig config = {
                .role = SESSION_GUEST, .port = s->kind, .hello = hello, .random = random_bytes
        };

        s->fd = open_port(name);
        if (s->fd < 0 || session_new(&config, &s->session) < 0)
                return -ENODEV;
        session_open(s->session, now_usec());
        return 0;
}

int main(void)
{
        json_object *hello = json_tokener_parse("{\"agent\":\"hostile\",\"boot_id\":"
                                                "\"0123456789abcdef0123456789abcdef\",\"instance\":\"ff\","
                                                "\"capabilities\":[\"call\",\"exec\",\"pull\",\"push\","
                                                "\"send\"],\"facts\":{\"hostname\":\"bad\"}}");
        bool was_bad = false;

        if (!hello || start(&control, "org.vmferry.ctl.0", hello) < 0 ||
            start(&data, "org.vmferry.data.0", hello) < 0) {
                perror("ports");
                return 1;
        }
        for (;;) {
                bool bad = is_bad(), reads = !bad || kind_of_now() != NEVER_READS;
                struct pollfd fds[2] = { { .fd = control.fd, .events = reads ? POLLIN : 0 },
                                         { .fd = data.fd, .events = reads ? POLLIN : 0 } };

                if (was_bad && !bad) /* what is half written stays so: the host finds its way */
                        session_open(control.session, now_usec());
                was_bad = bad;
                (void)flush(&control);
                (void)flush(&data);
                (void)poll(fds, 2, bad ? 1 : 20);
                if (reads) {
                        take(&control);
                        take(&data);
                }
                if (bad)
                        spoil();
        }
}
