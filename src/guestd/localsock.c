/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/localsock-private.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "guestd/log.h"
#include "guestd/payload.h"
#include "guestd/users.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

#define BACKLOG 16
#define ENVELOPE_BYTES 512u /* of a line, around topic and payload */

static void put(json_object *o, const char *key, json_object *value)
{
        (void)json_object_object_add(o, key, value);
}

/* How long a payload's line can get: base64, or text whose every byte is escaped as \u00XX. */
static size_t line_bytes_max(const void *payload, size_t n)
{
        size_t n_line = ENVELOPE_BYTES + n;
        for (const uint8_t *p = payload, *end = p + n; p < end; p++)
                n_line += *p < 0x20 || *p == 0x7f ? 5 : *p == '"' || *p == '\\';
        return MAX(n_line, ENVELOPE_BYTES + n / 3 * 4 + 4);
}

static uint64_t deadline_of(Localsock *l, uint64_t timeout_usec)
{
        uint64_t now = loop_now(l->loop), usec = timeout_usec ?: LOCALSOCK_CALL_TIMEOUT_USEC;
        return usec > USEC_INFINITY - now ? USEC_INFINITY : now + usec;
}

static void localsock_arm(Localsock *l)
{
        uint64_t deadline = USEC_INFINITY;
        for (size_t i = 0; i < l->n_calls; i++)
                deadline = MIN(deadline, l->calls[i].deadline);
        loop_timer_set(l->timer, deadline);
}

static int call_add(Localsock *l, const LocalCall *call)
{
        if (l->n_calls == l->n_calls_allocated) {
                size_t n = l->n_calls_allocated ? l->n_calls_allocated * 2 : 16;
                LocalCall *calls = reallocarray(l->calls, n, sizeof(*calls));
                if (!calls)
                        return -ENOMEM;
                l->calls = calls;
                l->n_calls_allocated = n;
        }
        l->calls[l->n_calls++] = *call;
        *(call->is_from_host ? &call->client->n_called : &call->client->n_asked) += 1;
        localsock_arm(l);
        return 0;
}

static LocalCall call_take(Localsock *l, size_t i)
{
        LocalCall call = l->calls[i];
        l->calls[i] = l->calls[--l->n_calls];
        *(call.is_from_host ? &call.client->n_called : &call.client->n_asked) -= 1;
        localsock_arm(l);
        return call;
}

/* The answer to a line of a program; ok means error is WIRE_OK. tag is borrowed. */
static json_object *answer_new(json_object *tag, WireError error, const char *text)
{
        json_object *o = error == WIRE_OK ? json_object_new_object() : message_error(error, "%s", text);
        if (o && error == WIRE_OK)
                put(o, "ok", json_object_new_boolean(true));
        if (o && tag)
                put(o, "tag", json_object_get(tag));
        return o;
}

static void say_error(LocalClient *c, json_object *tag, WireError error, const char *text)
{
        (void)local_client_say(c, answer_new(tag, error, text));
}

static void call_end(Localsock *l, size_t i, WireError error, const char *text)
{
        LocalCall call = call_take(l, i);
        if (call.is_from_host)
                l->ops->called(l->userdata, call.token, error, text, NULL, 0);
        else
                say_error(call.client, call.tag, error, text);
        json_object_put(call.tag);
}

static void on_time(void *userdata)
{
        Localsock *l = userdata;
        uint64_t now = loop_now(l->loop);
        for (size_t i = l->n_calls; i-- > 0;)
                if (i < l->n_calls && l->calls[i].deadline <= now)
                        call_end(l, i, WIRE_TIMEOUT, "no answer in time");
        localsock_arm(l);
}

void localsock_client_deaf(Localsock *l, LocalClient *c)
{
        for (size_t i = l->n_calls; i-- > 0;) {
                if (i >= l->n_calls || l->calls[i].client != c)
                        continue;
                LocalCall call = call_take(l, i);
                if (call.is_from_host)
                        l->ops->called(l->userdata, call.token, WIRE_INTERRUPTED,
                                       "the program that serves the topic has gone", NULL, 0);
                json_object_put(call.tag);
        }
}

void localsock_client_gone(Localsock *l, LocalClient *c)
{
        localsock_client_deaf(l, c);
        if (!l->is_freeing)
                loop_timer_set(l->sweep, loop_now(l->loop));
}

static void on_sweep(void *userdata)
{
        Localsock *l = userdata;
        for (size_t i = l->n_clients; i-- > 0;)
                if (l->clients[i]->fd < 0) {
                        (void)local_client_free(l->clients[i]);
                        l->clients[i] = l->clients[--l->n_clients];
                }
}

static bool topics_has(char *const *topics, size_t n, const char *topic)
{
        for (size_t i = 0; i < n; i++)
                if (str_eq(topics[i], topic))
                        return true;
        return false;
}

static LocalClient *server_find(Localsock *l, const char *topic)
{
        for (size_t i = 0; i < l->n_clients; i++)
                if (local_client_hears(l->clients[i]) &&
                    topics_has(l->clients[i]->served, l->clients[i]->n_served, topic))
                        return l->clients[i];
        return NULL;
}

static void topic_add(LocalClient *c, json_object *tag, char **topics, size_t *n, const char *topic)
{
        if (!topics_has(topics, *n, topic)) {
                if (*n == LOCALSOCK_TOPICS_MAX) {
                        say_error(c, tag, WIRE_LIMITS_EXCEEDED, "too many topics on one connection");
                        return;
                }
                char *copy = strdup(topic);
                if (!copy) {
                        say_error(c, tag, WIRE_FAILED, "out of memory");
                        return;
                }
                topics[(*n)++] = copy;
        }
        say_error(c, tag, WIRE_OK, "");
}

static void topic_remove(LocalClient *c, const char *topic)
{
        for (size_t i = 0; i < c->n_subscribed; i++)
                if (str_eq(c->subscribed[i], topic)) {
                        free(c->subscribed[i]);
                        c->subscribed[i] = c->subscribed[--c->n_subscribed];
                        return;
                }
}

static int line_publish(Localsock *l, LocalClient *c, json_object *tag, const char *topic,
                        const uint8_t *payload, size_t n)
{
        uint64_t id;
        int r = l->ops->publish(l->userdata, topic, payload, n, &id);
        if (r == -EAGAIN)
                return r;
        json_object *o = answer_new(tag,
                                    r == 0          ? WIRE_OK
                                    : r == -ENOBUFS ? WIRE_LIMITS_EXCEEDED
                                                    : WIRE_FAILED,
                                    r == -ENOBUFS ? "the host is away, and no more messages are kept for it"
                                                  : strerror(-r));
        if (o && r == 0)
                put(o, "id", json_object_new_int64((int64_t)id));
        (void)local_client_say(c, o);
        return 0;
}

static void line_call(Localsock *l, LocalClient *c, json_object *tag, const char *topic,
                      const uint8_t *payload, size_t n, int64_t timeout)
{
        if (c->n_asked >= LOCALSOCK_CALLS_MAX) {
                say_error(c, tag, WIRE_LIMITS_EXCEEDED, "too many calls without an answer");
                return;
        }
        uint64_t usec = timeout > 0 ? (uint64_t)timeout : LOCALSOCK_CALL_TIMEOUT_USEC;
        LocalCall call = { .token = ++l->last_number,
                           .client = c,
                           .tag = json_object_get(tag),
                           .deadline = deadline_of(l, usec) };
        if (call_add(l, &call) < 0) {
                json_object_put(call.tag);
                say_error(c, tag, WIRE_FAILED, "out of memory");
                return;
        }
        WireError e = l->ops->call(l->userdata, call.token, topic, payload, n, usec);
        if (e != WIRE_OK)
                localsock_answer(l, call.token, e, "the host cannot be called at present", NULL, 0);
}

static void line_answer(Localsock *l, LocalClient *c, json_object *o, json_object *tag,
                        const uint8_t *payload, size_t n)
{
        uint64_t number = (uint64_t)message_int(o, "call", 0);
        for (size_t i = 0; i < l->n_calls; i++) {
                if (!l->calls[i].is_from_host || l->calls[i].client != c || l->calls[i].number != number)
                        continue;
                const char *error = message_str(o, "error", NULL);
                LocalCall call = call_take(l, i);
                l->ops->called(l->userdata, call.token, error ? WIRE_FAILED : WIRE_OK, error ?: "", payload,
                               n);
                return;
        }
        say_error(c, tag, WIRE_NOT_FOUND, "no such call: it was answered, or its time is over");
}

int localsock_line(Localsock *l, LocalClient *c, json_object *untrusted_o)
{
        const char *method = message_str(untrusted_o, "method", ""),
                   *topic = message_str(untrusted_o, "topic", "");
        json_object *tag = NULL;
        (void)json_object_object_get_ex(untrusted_o, "tag", &tag);
        if (tag && !json_object_is_type(tag, json_type_string) && !json_object_is_type(tag, json_type_int)) {
                say_error(c, NULL, WIRE_INVALID_ARGS, "tag is neither text nor an integer");
                return 0;
        }
        if (tag && json_object_is_type(tag, json_type_string) &&
            json_object_get_string_len(tag) > (int)TOPIC_MAX) {
                say_error(c, NULL, WIRE_INVALID_ARGS, "tag is too long");
                return 0;
        }
        _cleanup_free_ uint8_t *payload = NULL;
        size_t n = 0;
        int r = payload_get(untrusted_o, &payload, &n);
        if (r < 0) {
                say_error(c, tag,
                          r == -E2BIG     ? WIRE_TOO_LARGE
                          : r == -EBADMSG ? WIRE_INVALID_ARGS
                                          : WIRE_FAILED,
                          r == -E2BIG ? "the payload is larger than 64 KiB"
                                      : "neither \"text\" nor \"data64\" is right");
                return 0;
        }
        if (str_eq(method, "answer")) {
                line_answer(l, c, untrusted_o, tag, payload, n);
                return 0;
        }
        if (!name_is_topic(topic))
                say_error(c, tag, WIRE_INVALID_ARGS, "topic is not one");
        else if (!policy_may_use_topic(l->config.policy, c->user, c->uid, topic))
                say_error(c, tag, WIRE_PERMISSION_DENIED,
                          "the policy (guestd.conf, LocalTopics=) has no such topic for you");
        else if (str_eq(method, "subscribe"))
                topic_add(c, tag, c->subscribed, &c->n_subscribed, topic);
        else if (str_eq(method, "unsubscribe")) {
                topic_remove(c, topic);
                say_error(c, tag, WIRE_OK, "");
        } else if (str_eq(method, "serve")) {
                LocalClient *server = server_find(l, topic);
                if (server && server != c)
                        say_error(c, tag, WIRE_EXISTS, "another program serves the topic");
                else
                        topic_add(c, tag, c->served, &c->n_served, topic);
        } else if (str_eq(method, "publish"))
                return line_publish(l, c, tag, topic, payload, n);
        else if (str_eq(method, "call"))
                line_call(l, c, tag, topic, payload, n, message_int(untrusted_o, "timeout", 0));
        else
                say_error(c, tag, WIRE_UNSUPPORTED, "no such method");
        return 0;
}

static json_object *event_new(const char *event, const char *topic, uint64_t id, const void *payload,
                              size_t n)
{
        json_object *o = json_object_new_object();
        if (!o)
                return NULL;
        put(o, "event", json_object_new_string(event));
        put(o, "topic", json_object_new_string(topic));
        put(o, "id", json_object_new_int64((int64_t)id));
        if (payload_put(o, payload, n) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

int localsock_deliver(Localsock *l, const char *topic, uint64_t id, const void *payload, size_t n)
{
        size_t n_line = line_bytes_max(payload, n);
        bool has_behind = false;
        for (size_t i = 0; i < l->n_clients; i++) {
                LocalClient *c = l->clients[i];
                if (local_client_hears(c) && topics_has(c->subscribed, c->n_subscribed, topic) &&
                    !local_client_has_room(c, n_line) && c->fd >= 0)
                        has_behind = true;
        }
        if (has_behind)
                return -ENOBUFS;
        int n_taken = 0;
        for (size_t i = 0; i < l->n_clients; i++) {
                LocalClient *c = l->clients[i];
                if (!local_client_hears(c) || !topics_has(c->subscribed, c->n_subscribed, topic))
                        continue;
                n_taken += local_client_say(c, event_new("message", topic, id, payload, n)) >= 0;
        }
        return n_taken;
}

int localsock_call(Localsock *l, uint64_t token, const char *topic, uint64_t id, const void *payload,
                   size_t n, uint64_t timeout_usec)
{
        LocalClient *c = server_find(l, topic);
        if (!c)
                return -ENOENT;
        if (c->n_called >= LOCALSOCK_CALLS_MAX || !local_client_has_room(c, line_bytes_max(payload, n)))
                return -ENOBUFS;
        uint64_t number = ++l->last_number;
        json_object *o = event_new("call", topic, id, payload, n);
        if (!o)
                return -ENOMEM;
        put(o, "call", json_object_new_int64((int64_t)number));
        put(o, "timeout",
            json_object_new_int64(
                    (int64_t)MIN(timeout_usec ?: LOCALSOCK_CALL_TIMEOUT_USEC, (uint64_t)INT64_MAX)));
        LocalCall call = { .token = token,
                           .number = number,
                           .client = c,
                           .is_from_host = true,
                           .deadline = deadline_of(l, timeout_usec) };
        int r = call_add(l, &call);
        if (r < 0) {
                json_object_put(o);
                return r;
        }
        (void)local_client_say(c, o); /* if it goes over that, `called` says so */
        return 0;
}

void localsock_answer(Localsock *l, uint64_t token, WireError error, const char *text, const void *payload,
                      size_t n)
{
        for (size_t i = 0; i < l->n_calls; i++) {
                if (l->calls[i].is_from_host || l->calls[i].token != token)
                        continue;
                LocalCall call = call_take(l, i);
                json_object *o = answer_new(call.tag, error, text);
                if (o && error == WIRE_OK)
                        (void)payload_put(o, payload, n);
                (void)local_client_say(call.client, o);
                json_object_put(call.tag);
                return;
        }
}

void localsock_resume(Localsock *l)
{
        for (size_t i = 0; i < l->n_clients; i++)
                if (l->clients[i]->is_parked)
                        local_client_turn(l->clients[i]);
}

static void on_connection(void *userdata, int fd, short revents)
{
        Localsock *l = userdata;
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
                return;
        int r = local_client_accept(l, client);
        if (r < 0)
                log_warning("guestd.sock: a program is turned away: %s", strerror(-r));
}

static int set_access(const LocalsockConfig *config)
{
        gid_t gid = 0;
        int r = config->group ? users_find_group(config->group, &gid) : 0;

        if (r >= 0 && chown(config->path, (uid_t)-1, gid) < 0)
                r = config->group ? -errno : 0;
        if (r < 0)
                log_warning("%s: group %s: %s; only root may use it", config->path, config->group,
                            strerror(-r));
        return chmod(config->path, r < 0 ? 0600 : config->mode) < 0 ? -errno : 0;
}

void localsock_set_access(Localsock *l, mode_t mode, const char *group)
{
        l->config.mode = mode;
        l->config.group = group;
        int r = set_access(&l->config);
        if (r < 0)
                log_warning("%s: %s; its permissions stay as they are", l->config.path, strerror(-r));
}

static int socket_bind(const LocalsockConfig *config, int *ret)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        if (strlen(config->path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, config->path, strlen(config->path) + 1);
        _cleanup_free_ char *dir = strdup(config->path);
        if (!dir)
                return -ENOMEM;
        char *slash = strrchr(dir, '/');
        if (slash && slash > dir) {
                *slash = 0;
                if (mkdir(dir, 0755) < 0 && errno != EEXIST)
                        return -errno;
        }
        struct stat st;
        if (lstat(config->path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(config->path) < 0)
                return -errno;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        /* Nobody may come in before mode and group are right. */
        mode_t mask = umask(0177);
        int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
        (void)umask(mask);
        if (r < 0)
                return r;
        r = set_access(config);
        if (r < 0)
                return r;
        if (listen(fd, BACKLOG) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

int localsock_new(Loop *loop, const LocalsockConfig *config, const LocalsockOps *ops, void *userdata,
                  Localsock **ret)
{
        _cleanup_(localsock_freep) Localsock *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        *l = (Localsock){ .loop = loop, .config = *config, .ops = ops, .userdata = userdata, .fd = -EBADF };
        int r = socket_bind(config, &l->fd);
        if (r >= 0)
                r = loop_add_fd(loop, l->fd, POLLIN, on_connection, l, &l->source);
        if (r >= 0)
                r = loop_add_timer(loop, on_time, l, &l->timer);
        if (r >= 0)
                r = loop_add_timer(loop, on_sweep, l, &l->sweep);
        if (r < 0)
                return r;
        *ret = TAKE(l);
        return 0;
}

Localsock *localsock_free(Localsock *l)
{
        if (!l)
                return NULL;
        l->is_freeing = true;
        for (size_t i = 0; i < l->n_clients; i++)
                local_client_drop(l->clients[i]);
        for (size_t i = 0; i < l->n_clients; i++)
                (void)local_client_free(l->clients[i]);
        if (l->fd >= 0)
                (void)unlink(l->config.path);
        (void)loop_timer_free(l->timer);
        (void)loop_timer_free(l->sweep);
        (void)loop_fd_free(l->source);
        (void)fd_close(l->fd);
        free(l->calls);
        free(l);
        return NULL;
}

size_t localsock_n_clients(const Localsock *l)
{
        size_t n = 0;
        for (size_t i = 0; i < l->n_clients; i++)
                n += l->clients[i]->fd >= 0;
        return n;
}
