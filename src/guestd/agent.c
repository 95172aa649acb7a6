/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every part has its own userdata here, the agent, and none knows of another. The host's methods are in one
 * table; what no entry names is Unsupported.
 */

#include <stdio.h>

#include "guestd/agent.h"
#include "guestd/calls.h"
#include "guestd/carry.h"
#include "guestd/config.h"
#include "guestd/facts.h"
#include "guestd/host.h"
#include "guestd/leftovers.h"
#include "guestd/localsock.h"
#include "guestd/log.h"
#include "guestd/messages.h"
#include "guestd/modules.h"
#include "guestd/outbox.h"
#include "guestd/process.h"
#include "guestd/upgrade.h"
#include "proto/name.h"

/* How long commands that aren't detached wait for a host that comes back. */
#define ORPHAN_USEC (10 * USEC_PER_SEC)

struct Agent {
        Loop *loop;
        AgentConfig given;
        Config config;
        char instance[INSTANCE_SIZE];
        char host_instance[INSTANCE_SIZE]; /* of the last session; "": unknown */
        Host *host;
        Carry *carry;
        Processes *processes;
        Messages *messages;
        Calls *calls;
        Outbox *outbox;
        Upgrade *upgrade;
        Localsock *localsock; /* NULL where there is no place for its socket */
        LoopTimer *orphan;
        bool stopping;
        int exit_code;
};

/* The host's requests. */

typedef void (*Method)(Agent *a, uint64_t token, const char *method, const Message *m);

static void method_message(Agent *a, uint64_t token, const char *method, const Message *m)
{
        messages_take(a->messages, token, str_eq(method, "message.call"), m);
}

static void method_data_open(Agent *a, uint64_t token, const char *method, const Message *m)
{
        carry_open(a->carry, token);
}

static void method_process(Agent *a, uint64_t token, const char *method, const Message *m)
{
        if (str_eq(method, "process.start") && !policy_may(&a->config.policy, POLICY_EXEC)) {
                const char *id = message_str(m->json, "id", NULL);
                log_audit("exec", name_is_id(id) ? id : NULL, wire_error_to_string(WIRE_PERMISSION_DENIED),
                          "%s", "");
                host_refuse(a->host, token, WIRE_PERMISSION_DENIED,
                            "This guest's policy allows no commands.");
                return;
        }
        /* A start that the host may repeat, not knowing whether it came through: the second time it looks by
         * process.list. */
        if (str_eq(method, "process.start") && message_bool(m->json, "once", false) &&
            messages_is_repeat(a->messages, method, message_str(m->json, "id", ""))) {
                json_object *o = json_object_new_object();
                (void)json_object_object_add(o, "duplicate", json_object_new_boolean(true));
                host_reply(a->host, token, o, NULL, 0);
                return;
        }
        process_call(a->processes, token, method, m->json);
}

static void method_upgrade(Agent *a, uint64_t token, const char *method, const Message *m)
{
        int64_t timeout = message_int(m->json, "timeout", (int64_t)UPGRADE_CONFIRM_USEC);

        if (!policy_may(&a->config.policy, POLICY_UPGRADE)) {
                host_refuse(a->host, token, WIRE_PERMISSION_DENIED,
                            "This guest's policy allows no upgrade of its daemon.");
                return;
        }
        upgrade_start(a->upgrade, token, message_str(m->json, "path", ""),
                      message_str(m->json, "digest", ""), timeout > 0 ? (uint64_t)timeout : 0);
}

static const struct {
        const char *name; /* a trailing dot: all of that family */
        Method method;
} methods[] = {
        { "message.send", method_message },  { "message.call", method_message },
        { "data.open", method_data_open },   { PROCESS_METHOD_PREFIX, method_process },
        { "agent.upgrade", method_upgrade },
};

static void on_host_request(void *userdata, uint64_t token, const char *method, const Message *m)
{
        Agent *a = userdata;

        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                size_t n = strlen(methods[i].name);
                bool is_family = methods[i].name[n - 1] == '.';
                if (is_family ? str_has_prefix(method, methods[i].name) : str_eq(method, methods[i].name)) {
                        methods[i].method(a, token, method, m);
                        return;
                }
        }
        host_refuse(a->host, token, WIRE_UNSUPPORTED, "This guest's daemon (%s) has no such method.",
                    VMFERRY_VERSION);
}

/* The session. */

static json_object *on_host_hello(void *userdata)
{
        Agent *a = userdata;

        return facts_hello(&a->config.policy, a->instance, upgrade_build());
}

static void on_host_up(void *userdata, json_object *hello)
{
        Agent *a = userdata;
        const char *instance = message_str(hello, "instance", "");

        loop_timer_set(a->orphan, USEC_INFINITY);
        upgrade_confirm();
        if (a->host_instance[0] && instance[0] &&
            strncmp(a->host_instance, instance, INSTANCE_SIZE - 1) != 0)
                processes_end_attached(a->processes);
        (void)snprintf(a->host_instance, sizeof(a->host_instance), "%s", instance);
        processes_resend(a->processes);
        outbox_host_here(a->outbox);
}

static void on_host_down(void *userdata, const char *why)
{
        Agent *a = userdata;

        outbox_host_away(a->outbox);
        calls_host_away(a->calls);
        carry_reset(a->carry);
        if (processes_n_running(a->processes) > 0)
                loop_timer_set(a->orphan, loop_now(a->loop) + ORPHAN_USEC);
}

static void on_orphan(void *userdata)
{
        Agent *a = userdata;

        processes_end_attached(a->processes);
}

static void on_host_reply(void *userdata, uint32_t request, WireError error, const char *text,
                          const Message *m)
{
        Agent *a = userdata;

        if (!outbox_on_reply(a->outbox, request, error, text))
                (void)calls_on_reply(a->calls, request, error, text, m);
}

static void on_host_notify(void *userdata, const char *method, const Message *m)
{
        Agent *a = userdata;

        if (str_eq(method, "transfer.live"))
                leftovers_sweep(a->loop, message_obj(m->json, "ids"));
        /* A newer host may know more. */
}

/* Messages and processes answer the host. */

static void on_message_reply(void *userdata, uint64_t token, json_object *json, const void *payload,
                             size_t n)
{
        Agent *a = userdata;

        host_reply(a->host, token, json, payload, n);
}

static void on_message_refuse(void *userdata, uint64_t token, WireError error, const char *text)
{
        Agent *a = userdata;

        host_refuse(a->host, token, error, "%s", text);
}

static void on_process_reply(void *userdata, uint64_t token, json_object *reply)
{
        Agent *a = userdata;

        host_reply(a->host, token, reply, NULL, 0);
}

static void on_process_exited(void *userdata, json_object *notification)
{
        Agent *a = userdata;

        (void)host_notify(a->host, notification); /* else processes_resend() tells it */
}

/* The next program. */

static void on_left(void *userdata)
{
        Agent *a = userdata;

        loop_stop(a->loop, a->exit_code);
}

static void on_upgrade_done(void *userdata, uint64_t token, WireError error, const char *text)
{
        Agent *a = userdata;

        if (error != WIRE_OK) {
                host_refuse(a->host, token, error, "%s", text);
                return;
        }
        json_object *o = json_object_new_object();
        if (o)
                (void)json_object_object_add(o, "version", json_object_new_string(text));
        host_reply(a->host, token, o, NULL, 0);
        a->stopping = true;
        a->exit_code = UPGRADE_EXIT;
        host_leave(a->host, on_left);
}

/* The data port. */

static void on_carry_opened(void *userdata, uint64_t token, WireError error, const char *text)
{
        Agent *a = userdata;

        if (error == WIRE_OK)
                host_reply(a->host, token, NULL, NULL, 0);
        else
                host_refuse(a->host, token, error, "%s", text);
}

static WireError on_carry_process_stream(void *userdata, const char *process_id, CarryStream which,
                                         int *ret_read_fd, int *ret_write_fd, char **ret_text)
{
        static const ProcessOutput outputs[_CARRY_STREAM_MAX] = {
                [CARRY_STDIO] = PROCESS_STDIO,
                [CARRY_STDERR] = PROCESS_STDERR,
                [CARRY_SPOOL_STDOUT] = PROCESS_SPOOL_STDOUT,
                [CARRY_SPOOL_STDERR] = PROCESS_SPOOL_STDERR,
        };
        Agent *a = userdata;
        int in = -EBADF, out = -EBADF;

        int r = process_take_fds(a->processes, process_id, outputs[which], &in, &out);
        if (r < 0) {
                *ret_text = strdup(r == -ENOENT ? "This guest has no such process, or it has no such stream."
                                   : r == -EALREADY ? "The process's stream was opened before."
                                                    : strerror(-r));
                return r == -EALREADY ? WIRE_EXISTS : wire_error_from_errno(-r);
        }
        *ret_read_fd = out >= 0 ? out : -1;
        *ret_write_fd = in >= 0 ? in : -1;
        return WIRE_OK;
}

/* Programs of this guest. */

static int on_local_publish(void *userdata, const char *topic, const void *payload, size_t n,
                            uint64_t *ret_id)
{
        Agent *a = userdata;

        return outbox_add(a->outbox, topic, payload, n, ret_id);
}

static WireError on_local_call(void *userdata, uint64_t token, const char *topic, const void *payload,
                               size_t n, uint64_t timeout_usec)
{
        Agent *a = userdata;

        return calls_start(a->calls, token, topic, payload, n, timeout_usec);
}

static void on_local_called(void *userdata, uint64_t token, WireError error, const char *text,
                            const void *payload, size_t n)
{
        Agent *a = userdata;

        messages_on_called(a->messages, token, error, text, payload, n);
}

static int on_call_send(void *userdata, json_object *json, const void *payload, size_t n,
                        uint32_t *ret_request)
{
        Agent *a = userdata;

        return host_request(a->host, json, payload, n, ret_request);
}

static void on_call_forget(void *userdata, uint32_t request)
{
        Agent *a = userdata;

        host_forget(a->host, request);
}

static void on_call_done(void *userdata, uint64_t token, WireError error, const char *text,
                         const void *payload, size_t n)
{
        Agent *a = userdata;

        if (a->localsock)
                localsock_answer(a->localsock, token, error, text, payload, n);
}

static int on_outbox_send(void *userdata, const char *topic, uint64_t id, const void *payload, size_t n,
                          uint32_t *ret_request)
{
        Agent *a = userdata;
        json_object *o = json_object_new_object();

        if (o && (json_object_object_add(o, "method", json_object_new_string("message.publish")) < 0 ||
                  json_object_object_add(o, "topic", json_object_new_string(topic)) < 0 ||
                  json_object_object_add(o, "id", json_object_new_int64((int64_t)id)) < 0)) {
                (void)json_object_put(o);
                return -ENOMEM;
        }
        return host_request(a->host, o, payload, n, ret_request);
}

static void on_outbox_room(void *userdata)
{
        Agent *a = userdata;

        if (a->localsock)
                localsock_resume(a->localsock);
}

/* Configuration. */

static int load_config(const AgentConfig *given, Config *ret)
{
        _cleanup_free_ char *control = NULL, *data = NULL;
        Config c;

        int r = config_load(given->config_file, &c);
        if (r < 0) {
                log_error("%s: %s", given->config_file ? given->config_file : "configuration", strerror(-r));
                return r;
        }
        if ((given->control_channel && !(control = strdup(given->control_channel))) ||
            (given->data_channel && !(data = strdup(given->data_channel)))) {
                config_done(&c);
                return -ENOMEM;
        }
        if (control) {
                free(c.control_channel);
                c.control_channel = TAKE(control);
        }
        if (data) {
                free(c.data_channel);
                c.data_channel = TAKE(data);
        }
        if (given->log_level >= 0)
                c.log_level = given->log_level;
        *ret = c;
        return 0;
}

static ProcessesConfig processes_config_of(const Agent *a)
{
        return (ProcessesConfig){
                .jobs_dir = PROCESS_JOBS_DIR,
                .n_max = a->config.processes_max,
                .spool_bytes = a->config.spool_bytes,
                .spool_keep_usec = a->config.spool_keep_usec,
                .kill_grace_usec = a->config.kill_grace_usec,
                .policy = &a->config.policy,
        };
}

void agent_reload(Agent *a)
{
        Config fresh;

        if (load_config(&a->given, &fresh) < 0)
                return;
        if (!str_eq(fresh.control_channel, a->config.control_channel))
                log_notice("ControlChannel= has changed: this counts from the next start on");
        bool has_new_facts =
                memcmp(fresh.policy.allow, a->config.policy.allow, sizeof(fresh.policy.allow)) != 0;
        Config old = a->config;
        a->config = fresh; /* others have pointers to the policy: it changes in place */
        log_set_max_level(fresh.log_level);
        ProcessesConfig processes_config = processes_config_of(a);
        processes_set_config(a->processes, &processes_config);
        outbox_set_max(a->outbox, fresh.publish_queue_max);
        if (a->localsock)
                localsock_set_access(a->localsock, fresh.socket_mode, fresh.socket_group);
        config_done(&old);
        if (has_new_facts)
                host_renew(a->host);
        log_notice("Configuration read anew");
}

/* Birth and death. */

static int start_parts(Agent *a)
{
        static const HostOps host_ops = { on_host_hello,   on_host_up,    on_host_down,
                                          on_host_request, on_host_reply, on_host_notify };
        static const CarryOps carry_ops = { on_carry_opened, on_carry_process_stream };
        static const ProcessesOps process_ops = { on_process_reply, on_process_exited };
        static const MessagesOps message_ops = { on_message_reply, on_message_refuse };
        static const CallsOps call_ops = { on_call_send, on_call_forget, on_call_done };
        static const OutboxOps outbox_ops = { on_outbox_send, on_outbox_room };
        ProcessesConfig processes_config = processes_config_of(a);
        static const UpgradeOps upgrade_ops = { on_upgrade_done };
        int r = loop_add_timer(a->loop, on_orphan, a, &a->orphan);
        if (r == 0)
                r = host_new(a->loop, a->config.control_channel, &host_ops, a, &a->host);
        if (r == 0)
                r = carry_new(a->loop, &a->config, &carry_ops, a, &a->carry);
        if (r == 0)
                r = processes_new(a->loop, &processes_config, &process_ops, a, &a->processes);
        if (r == 0)
                r = messages_new(a->loop, &a->config, &message_ops, a, &a->messages);
        if (r == 0)
                r = calls_new(a->loop, &call_ops, a, &a->calls);
        if (r == 0)
                r = upgrade_new(a->loop, &upgrade_ops, a, &a->upgrade);
        if (r == 0)
                r = outbox_new(a->loop, a->config.publish_queue_max, STATE_DIR "/outbox", &outbox_ops, a,
                               &a->outbox);
        return r;
}

static void start_localsock(Agent *a)
{
        static const LocalsockOps ops = { on_local_publish, on_local_call, on_local_called };
        LocalsockConfig config = { .path = SOCKET_PATH,
                                   .mode = a->config.socket_mode,
                                   .group = a->config.socket_group,
                                   .policy = &a->config.policy };

        int r = localsock_new(a->loop, &config, &ops, a, &a->localsock);
        if (r < 0)
                log_warning("%s: %s; programs here can't talk to the host", SOCKET_PATH, strerror(-r));
        messages_set_localsock(a->messages, a->localsock);
}

int agent_new(Loop *l, const AgentConfig *config, Agent **ret)
{
        _cleanup_(agent_freep) Agent *a = calloc(1, sizeof(*a));
        if (!a)
                return -ENOMEM;
        a->loop = l;
        a->given = *config;
        facts_make_instance(a->instance);
        int r = load_config(config, &a->config);
        if (r < 0)
                return r;
        log_set_max_level(a->config.log_level);
        r = start_parts(a);
        if (r < 0) {
                log_error("Cannot start: %s", strerror(-r));
                return r;
        }
        start_localsock(a);
        if (a->config.control_channel[0] != '/')
                (void)modules_load_virtio();
        host_start(a->host);
        *ret = TAKE(a);
        return 0;
}

Agent *agent_free(Agent *a)
{
        if (!a)
                return NULL;
        if (a->messages) /* answers what its clients had open, so everything else is still there */
                messages_set_localsock(a->messages, NULL);
        a->localsock = localsock_free(a->localsock);
        if (a->outbox && outbox_save(a->outbox) < 0)
                log_warning("Messages that the host hasn't taken are lost: they could not be written down");
        a->messages = messages_free(a->messages);
        a->processes = processes_free(a->processes);
        a->carry = carry_free(a->carry);
        a->calls = calls_free(a->calls);
        a->upgrade = upgrade_free(a->upgrade);
        a->outbox = outbox_free(a->outbox);
        a->host = host_free(a->host);
        a->orphan = loop_timer_free(a->orphan);
        config_done(&a->config);
        free(a);
        return NULL;
}

void agent_stop(Agent *a)
{
        if (a->stopping) {
                loop_stop(a->loop, 0);
                return;
        }
        a->stopping = true;
        host_leave(a->host, on_left);
}
