/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is done to a process that runs: signals, and the size of its terminal. */

#include "hostd/exec-private.h"

#include "hostd/log.h"

#define REQUEST_TIMEOUT_USEC (30 * USEC_PER_SEC)

typedef struct Asked {
        ExecAnswer answer;
        void *userdata;
        char *guest_name, *command; /* the job may be gone by then */
} Asked;

static void asked_free(Asked *a)
{
        if (!a)
                return;
        g_free(a->guest_name);
        g_free(a->command);
        g_free(a);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Asked, asked_free)

bool exec_can_ask(const Job *j)
{
        return j && j->guest && guest_state(j->guest) == GUEST_READY;
}

static void on_ignored(void *userdata, WireError error, const char *text, const Message *m)
{
        if (error != WIRE_OK)
                log_debug("A request about a process was not answered well: %s", text);
}

void exec_tell(const Job *j, json_object *json)
{
        if (exec_can_ask(j))
                (void)guest_request(j->guest, json, NULL, 0, REQUEST_TIMEOUT_USEC, on_ignored, NULL);
        else
                json_object_put(json);
}

int exec_tell_signal(const Job *j, int signal)
{
        if (!exec_can_ask(j))
                return -ENOTCONN;
        exec_tell(j, exec_request_signal(j, signal));
        return 0;
}

static void on_answer(void *userdata, WireError error, const char *text, const Message *m)
{
        g_autoptr(Asked) a = userdata;
        g_autofree char *sentence = NULL;

        if (error != WIRE_OK)
                sentence = g_strdup_printf("%s in guest %s: %s", a->command, a->guest_name,
                                           job_bare_text(a->guest_name, text));
        a->answer(a->userdata, error, sentence);
}

static int ask(const Job *j, json_object *json, ExecAnswer answer, void *userdata)
{
        Asked *a = g_new0(Asked, 1);

        *a = (Asked){ answer, userdata, g_strdup(j->guest_name), g_strdup(j->process->argv[0]) };
        (void)guest_request(j->guest, json, NULL, 0, REQUEST_TIMEOUT_USEC, on_answer, a);
        return 0;
}

int exec_kill(const Job *j, int signal, ExecAnswer answer, void *userdata)
{
        return exec_can_ask(j) ? ask(j, exec_request_signal(j, signal), answer, userdata) : -ENOTCONN;
}

int exec_resize(const Job *j, uint16_t rows, uint16_t columns, ExecAnswer answer, void *userdata)
{
        json_object *o;

        if (!j->process->has_tty)
                return -ENOTTY;
        if (!exec_can_ask(j))
                return -ENOTCONN;
        o = exec_request_new("process.resize", j->wire_id);
        json_object_object_add(o, "rows", json_object_new_int(rows));
        json_object_object_add(o, "columns", json_object_new_int(columns));
        return ask(j, o, answer, userdata);
}
