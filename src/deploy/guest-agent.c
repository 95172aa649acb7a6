/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leans on the agent's guest-file-open, -write, -close, guest-exec and guest-exec-status (QEMU 2.5), which a
 * guest's administrator may have switched off: its refusal is passed on. A chunk is 48 KiB: with base64 and
 * JSON around it, it stays below libvirt's limit for one command.
 */

#include <glib.h>
#include <json-c/json.h>
#include <stdio.h>

#include "base/fs.h"
#include "deploy/guest-agent.h"

#define CHUNK (48 * 1024)
#define POLL_USEC (50 * USEC_PER_MSEC)

static json_object *object_get(json_object *o, const char *key)
{
        json_object *v;

        return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

/* Takes arguments over. 0 and the "return" value, to be put. */
static int ask(GuestAgent *a, const char *command, json_object *arguments, json_object **ret)
{
        json_object *o = json_object_new_object();
        uint64_t now = fs_now_usec();
        _cleanup_free_ char *answer = NULL;

        (void)json_object_object_add(o, "execute", json_object_new_string(command));
        if (arguments)
                (void)json_object_object_add(o, "arguments", arguments);
        int r = -ETIMEDOUT;
        if (now < a->deadline_usec)
                r = domain_ask_agent(a->domain, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
                                     (unsigned)((a->deadline_usec - now) / USEC_PER_SEC + 1), &answer);
        (void)json_object_put(o);
        if (r < 0)
                return target_fail(&a->target, r, "the guest agent does not do %s: %s", command,
                                   now < a->deadline_usec ? domain_why(a->domain) : "the time is over");
        json_object *reply = json_tokener_parse(answer);
        json_object *value = object_get(reply, "return");
        if (!value && !json_object_object_get_ex(reply, "return", NULL)) {
                (void)json_object_put(reply);
                return target_fail(&a->target, -EBADMSG, "the guest agent answered %s with something else",
                                   command);
        }
        *ret = json_object_get(value);
        (void)json_object_put(reply);
        return 0;
}

int guest_agent_ping(GuestAgent *a)
{
        json_object *v = NULL;
        int r = ask(a, "guest-ping", NULL, &v);

        (void)json_object_put(v);
        return r;
}

static int exec_start(GuestAgent *a, const char *script, int64_t *ret_pid)
{
        json_object *arguments = json_object_new_object(), *argv = json_object_new_array(), *v = NULL;

        (void)json_object_array_add(argv, json_object_new_string("-c"));
        (void)json_object_array_add(argv, json_object_new_string(script));
        (void)json_object_object_add(arguments, "path", json_object_new_string("/bin/sh"));
        (void)json_object_object_add(arguments, "arg", argv);
        (void)json_object_object_add(arguments, "capture-output", json_object_new_boolean(true));
        int r = ask(a, "guest-exec", arguments, &v);
        if (r == 0)
                *ret_pid = json_object_get_int64(object_get(v, "pid"));
        (void)json_object_put(v);
        return r;
}

static char *output_of(json_object *status)
{
        const char *base64 = json_object_get_string(object_get(status, "out-data"));
        gsize n = 0;
        g_autofree guchar *bytes = base64 ? g_base64_decode(base64, &n) : NULL;

        return strndup(bytes ? (const char *)bytes : "", n);
}

int guest_agent_run(GuestAgent *a, const char *script, int *ret_status, char **ret_output)
{
        int64_t pid = 0;
        int r = exec_start(a, script, &pid);

        while (r == 0) {
                json_object *arguments = json_object_new_object(), *v = NULL;
                (void)json_object_object_add(arguments, "pid", json_object_new_int64(pid));
                r = ask(a, "guest-exec-status", arguments, &v);
                if (r == 0 && json_object_get_boolean(object_get(v, "exited"))) {
                        json_object *status = object_get(v, "exitcode");
                        *ret_status = status ? json_object_get_int(status) : 255;
                        if (ret_output && !(*ret_output = output_of(v)))
                                r = -ENOMEM;
                        (void)json_object_put(v);
                        return r;
                }
                (void)json_object_put(v);
                (void)usleep(POLL_USEC);
        }
        return r;
}

/* Runs a script with one path in it, "%s", quoted. */
static int run_on(GuestAgent *a, const char *format, const char *path, int *ret_status, char **ret_output)
{
        g_autofree char *quoted = g_shell_quote(path);
        g_auto(GStrv) parts = g_strsplit(format, "%s", -1);
        g_autofree char *script = g_strjoinv(quoted, parts);

        return guest_agent_run(a, script, ret_status, ret_output);
}

static int agent_is_there(Target *t, const char *path)
{
        int status, r = run_on((GuestAgent *)t, "test -e %s || test -L %s", path, &status, NULL);

        return r < 0 ? r : status == 0;
}

static int agent_is_same(Target *t, const char *path, const void *data, size_t n)
{
        g_autofree char *sum = g_compute_checksum_for_data(G_CHECKSUM_SHA256, data, n);
        _cleanup_free_ char *out = NULL;
        int status, r = run_on((GuestAgent *)t, "sha256sum < %s", path, &status, &out);

        return r < 0 ? r : status == 0 && str_has_prefix(out, sum);
}

static int agent_read(Target *t, const char *path, char **ret)
{
        int status, r = run_on((GuestAgent *)t, "head -c 65536 %s", path, &status, ret);

        if (r < 0 || status == 0)
                return r;
        free(TAKE(*ret));
        return target_fail(t, -EIO, "%s cannot be read in the guest", path);
}

static int agent_read_link(Target *t, const char *path, char **ret)
{
        _cleanup_free_ char *out = NULL;
        int status, r = run_on((GuestAgent *)t, "! test -L %s || readlink %s", path, &status, &out);

        if (r < 0)
                return r;
        if (status != 0)
                return target_fail(t, -EIO, "%s cannot be read in the guest", path);
        out[strcspn(out, "\n")] = '\0';
        if (out[0] == '\0')
                return 0;
        *ret = TAKE(out);
        return 1;
}

static int agent_make_directory(Target *t, const char *path)
{
        int status, r = run_on((GuestAgent *)t, "mkdir -m 0755 %s", path, &status, NULL);

        return r < 0 ? r : status == 0 ? 0 : target_fail(t, -EIO, "%s cannot be made in the guest", path);
}

static int write_chunks(GuestAgent *a, int64_t handle, const uint8_t *data, size_t n)
{
        for (size_t done = 0; done < n;) {
                size_t k = MIN(n - done, (size_t)CHUNK);
                g_autofree char *base64 = g_base64_encode(data + done, k);
                json_object *arguments = json_object_new_object(), *v = NULL;
                (void)json_object_object_add(arguments, "handle", json_object_new_int64(handle));
                (void)json_object_object_add(arguments, "buf-b64", json_object_new_string(base64));
                int r = ask(a, "guest-file-write", arguments, &v);
                int64_t count = r == 0 ? json_object_get_int64(object_get(v, "count")) : 0;
                (void)json_object_put(v);
                if (r < 0)
                        return r;
                if (count <= 0 || (uint64_t)count > k)
                        return target_fail(&a->target, -EIO,
                                           "the guest agent wrote nothing: the guest's disk is full?");
                done += (size_t)count;
        }
        return 0;
}

static int write_file(GuestAgent *a, const char *path, const void *data, size_t n)
{
        json_object *arguments = json_object_new_object(), *v = NULL;

        (void)json_object_object_add(arguments, "path", json_object_new_string(path));
        (void)json_object_object_add(arguments, "mode", json_object_new_string("w"));
        int r = ask(a, "guest-file-open", arguments, &v);
        if (r < 0)
                return r;
        int64_t handle = json_object_get_int64(v);
        (void)json_object_put(TAKE(v));
        r = write_chunks(a, handle, data, n);
        arguments = json_object_new_object();
        (void)json_object_object_add(arguments, "handle", json_object_new_int64(handle));
        int r2 = ask(a, "guest-file-close", arguments, &v);
        (void)json_object_put(v);
        return r < 0 ? r : r2;
}

static int agent_put(Target *t, const char *path, const void *data, size_t n, mode_t mode)
{
        GuestAgent *a = (GuestAgent *)t;
        g_autofree char *directory = g_path_get_dirname(path), *name = g_path_get_basename(path);
        g_autofree char *fresh = g_strdup_printf("%s/.%s.new", directory, name),
                        *quoted = g_shell_quote(path);
        g_autofree char *finish = g_strdup_printf("chown 0:0 %%s && chmod %04o %%s && sync && mv -f %%s %s",
                                                  (unsigned)mode, quoted);
        int status, r = write_file(a, fresh, data, n);

        if (r == 0 && (r = agent_is_same(t, fresh, data, n)) == 0)
                r = target_fail(t, -EIO, "%s did not arrive whole in the guest", path);
        if (r > 0) {
                r = run_on(a, finish, fresh, &status, NULL);
                if (r == 0 && status != 0)
                        r = target_fail(t, -EIO, "%s cannot be put in place in the guest", path);
        }
        if (r < 0) {
                char why[sizeof(t->why)];
                memcpy(why, t->why, sizeof(why));
                (void)run_on(a, "rm -f %s", fresh, &status, NULL);
                memcpy(t->why, why, sizeof(why));
        }
        return r;
}

static int agent_link(Target *t, const char *path, const char *to)
{
        g_autofree char *quoted_to = g_shell_quote(to);
        g_autofree char *format = g_strdup_printf("ln -sf %s %%s", quoted_to);
        int status, r = run_on((GuestAgent *)t, format, path, &status, NULL);

        return r < 0 ? r : status == 0 ? 0 : target_fail(t, -EIO, "%s cannot be linked in the guest", path);
}

void guest_agent_init(GuestAgent *a, Domain *d, uint64_t deadline_usec)
{
        static const TargetOps ops = { .is_there = agent_is_there,
                                       .is_same = agent_is_same,
                                       .read = agent_read,
                                       .read_link = agent_read_link,
                                       .make_directory = agent_make_directory,
                                       .put = agent_put,
                                       .link = agent_link };

        *a = (GuestAgent){ .target.ops = &ops, .domain = d, .deadline_usec = deadline_usec };
}
