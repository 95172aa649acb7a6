/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is asked of a guest about a process, as ARCHITECTURE.md has it, and the limits of what may be asked.
 */

#include "hostd/exec-private.h"

#include "proto/limits.h"
#include "proto/name.h"

json_object *exec_request_new(const char *method, const char *id)
{
        json_object *o = json_object_new_object();
        json_object_object_add(o, "method", json_object_new_string(method));
        if (id)
                json_object_object_add(o, "id", json_object_new_string(id));
        return o;
}

/* The tree: of which there may be something left after its own exit. */
json_object *exec_request_signal(const Job *j, int signal)
{
        json_object *o = exec_request_new("process.kill", j->wire_id);

        json_object_object_add(o, "signal", json_object_new_int(signal));
        json_object_object_add(o, "tree", json_object_new_boolean(true));
        return o;
}

WireError exec_check_command(const char *const *argv, const ExecOptions *options, char **ret_text)
{
        size_t n = 0, n_env = 0, n_bytes = 0;

        for (; argv[n]; n++)
                n_bytes += strlen(argv[n]) + 1;
        for (; options->env && options->env[n_env]; n_env++)
                n_bytes += strlen(options->env[n_env]) + 1;
        if (n == 0 || !*argv[0])
                *ret_text = g_strdup("The command has no name: argv or its first word is empty");
        else if (options->cwd && !name_is_rooted(options->cwd))
                *ret_text =
                        g_strdup_printf("The working directory \"%s\" is no absolute path", options->cwd);
        if (*ret_text)
                return WIRE_INVALID_ARGS;
        if (n <= ARGV_MAX && n_env <= ARGV_MAX && n_bytes <= ARGV_BYTES_MAX)
                return WIRE_OK;
        *ret_text = g_strdup_printf(
                "The command is too long: argv and env may have %u elements each and %u bytes together",
                ARGV_MAX, ARGV_BYTES_MAX);
        return WIRE_TOO_LARGE;
}

json_object *exec_request_start(const Job *j, const char *const *argv, const ExecOptions *o, bool is_run)
{
        json_object *json = exec_request_new("process.start", j->wire_id), *list = json_object_new_array();

        for (; *argv; argv++)
                json_object_array_add(list, json_object_new_string(*argv));
        json_object_object_add(json, "argv", list);
        if (o->env) {
                json_object *env = json_object_new_object();
                for (const char *const *e = o->env; *e; e++) {
                        const char *eq = strchr(*e, '=');
                        g_autofree char *key = g_strndup(*e, eq ? (size_t)(eq - *e) : strlen(*e));
                        json_object_object_add(env, key, json_object_new_string(eq ? eq + 1 : ""));
                }
                json_object_object_add(json, "env", env);
        }
        if (o->cwd)
                json_object_object_add(json, "cwd", json_object_new_string(o->cwd));
        if (o->user)
                json_object_object_add(json, "user", json_object_new_string(o->user));
        if (o->timeout_usec <= INT64_MAX)
                json_object_object_add(json, "timeout", json_object_new_int64((int64_t)o->timeout_usec));
        json_object_object_add(json, "tty", json_object_new_boolean(o->tty));
        if (o->tty) {
                json_object_object_add(json, "rows", json_object_new_int(o->rows));
                json_object_object_add(json, "columns", json_object_new_int(o->columns));
        }
        json_object_object_add(json, "detach", json_object_new_boolean(o->detach));
        json_object_object_add(json, "stdin", json_object_new_boolean(!o->detach && (!is_run || o->input)));
        json_object_object_add(json, "stdout", json_object_new_boolean(!o->detach));
        json_object_object_add(json, "stderr", json_object_new_boolean(!o->detach && !o->tty));
        return json;
}
