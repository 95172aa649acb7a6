/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guestd/process-spec.h"

#include <stdio.h>

#include "base/base.h"
#include "base/escape.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/name.h"

void process_spec_done(ProcessSpec *s)
{
        s->argv = message_strv_free(s->argv);
        s->env = message_strv_free(s->env);
        free(s->id);
        free(s->cwd);
        free(s->user);
        *s = (ProcessSpec){ 0 };
}

static size_t strv_bytes(char *const *strv)
{
        size_t n = 0;
        for (; strv && *strv; strv++)
                n += strlen(*strv) + 1;
        return n;
}

static WireError env_parse(json_object *params, char ***ret, const char **ret_why)
{
        json_object *o = NULL;
        if (!json_object_object_get_ex(params, "env", &o))
                return WIRE_OK;
        *ret_why = "env is no object of strings";
        if (!json_object_is_type(o, json_type_object))
                return WIRE_INVALID_ARGS;
        *ret_why = "env has too many variables";
        int n_vars = json_object_object_length(o);
        if (n_vars > (int)ARGV_MAX)
                return WIRE_TOO_LARGE;
        char **env = calloc((size_t)n_vars + 1, sizeof(*env));
        *ret_why = "out of memory";
        if (!env)
                return WIRE_FAILED;
        WireError e = WIRE_OK;
        size_t n = 0;
        json_object_object_foreach(o, name, value)
        {
                const char *text = json_object_get_string(value);
                e = WIRE_INVALID_ARGS;
                *ret_why = "a name in env is empty or has a '=' in it";
                if (!name_is_variable(name))
                        break;
                *ret_why = "a value in env is no string, or has a NUL in it";
                if (!json_object_is_type(value, json_type_string) ||
                    strlen(text) != (size_t)json_object_get_string_len(value))
                        break;
                e = WIRE_FAILED;
                *ret_why = "out of memory";
                if (asprintf(&env[n], "%s=%s", name, text) < 0) {
                        env[n] = NULL;
                        break;
                }
                n++;
                e = WIRE_OK;
        }
        if (e != WIRE_OK) {
                (void)message_strv_free(env);
                return e;
        }
        *ret = env;
        return WIRE_OK;
}

static WireError argv_parse(json_object *params, char ***ret, const char **ret_why)
{
        int r = message_strv(params, "argv", ARGV_MAX, ret);
        if (r == -E2BIG) {
                *ret_why = "argv has too many elements";
                return WIRE_TOO_LARGE;
        }
        if (r == -ENOMEM) {
                *ret_why = "out of memory";
                return WIRE_FAILED;
        }
        *ret_why = r < 0 ? "argv is no array of strings without NUL" : "argv is empty";
        return r < 0 || !(*ret)[0] || !(*ret)[0][0] ? WIRE_INVALID_ARGS : WIRE_OK;
}

WireError process_size_parse(json_object *untrusted_params, uint16_t *ret_rows, uint16_t *ret_columns)
{
        int64_t rows = message_int(untrusted_params, "rows", 0),
                columns = message_int(untrusted_params, "columns", 0);
        if (rows < 0 || rows > UINT16_MAX || columns < 0 || columns > UINT16_MAX)
                return WIRE_INVALID_ARGS;
        *ret_rows = (uint16_t)rows;
        *ret_columns = (uint16_t)columns;
        return WIRE_OK;
}

static WireError texts_parse(json_object *params, ProcessSpec *s, const char **ret_why)
{
        const char *id = message_str(params, "id", ""), *cwd = message_str(params, "cwd", NULL),
                   *user = message_str(params, "user", NULL);
        *ret_why = "id is not one";
        if (!name_is_id(id))
                return WIRE_INVALID_ARGS;
        *ret_why = "cwd is no absolute path";
        if (cwd && !name_is_rooted(cwd))
                return WIRE_INVALID_PATH;
        *ret_why = "user is empty";
        if (user && !*user)
                return WIRE_INVALID_ARGS;
        *ret_why = "out of memory";
        if (!(s->id = strdup(id)) || (cwd && !(s->cwd = strdup(cwd))) || (user && !(s->user = strdup(user))))
                return WIRE_FAILED;
        return WIRE_OK;
}

WireError process_spec_parse(json_object *untrusted_params, ProcessSpec *ret, const char **ret_why)
{
        json_object *o = untrusted_params;
        _cleanup_(process_spec_done) ProcessSpec s = {
                .tty = message_bool(o, "tty", false),
                .detach = message_bool(o, "detach", false),
                .in = message_bool(o, "stdin", false),
                .out = message_bool(o, "stdout", false),
                .err = message_bool(o, "stderr", false),
        };
        WireError e = texts_parse(o, &s, ret_why);
        if (e == WIRE_OK)
                e = argv_parse(o, &s.argv, ret_why);
        if (e == WIRE_OK)
                e = env_parse(o, &s.env, ret_why);
        if (e != WIRE_OK)
                return e;
        *ret_why = "argv and env are too long together";
        if (strv_bytes(s.argv) + strv_bytes(s.env) > ARGV_BYTES_MAX)
                return WIRE_TOO_LARGE;
        *ret_why = "rows and columns are between 0 and 65535";
        e = process_size_parse(o, &s.rows, &s.columns);
        if (e != WIRE_OK)
                return e;
        *ret_why = "timeout is negative";
        int64_t timeout = message_int(o, "timeout", 0);
        if (timeout < 0)
                return WIRE_INVALID_ARGS;
        s.timeout_usec = timeout ? (uint64_t)timeout : USEC_INFINITY;
        *ret = s;
        s = (ProcessSpec){ 0 };
        return WIRE_OK;
}

char *process_spec_command(const ProcessSpec *s, size_t max)
{
        size_t n = strv_bytes(s->argv), k = 0;
        _cleanup_free_ char *line = malloc(n + 1);
        if (!line)
                return NULL;
        for (char **p = s->argv; *p; p++) {
                size_t n_arg = strlen(*p);
                memcpy(line + k, *p, n_arg);
                line[k + n_arg] = ' ';
                k += n_arg + 1;
        }
        return escape_text(line, k - 1, max);
}
