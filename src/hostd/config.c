/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * hostd.conf: a table of keys, read over the defaults from the most important hostd.conf there is and then
 * from all drop-ins, in order of their names. What is wrong is told with file, line and key, and what is
 * right counts.
 */

#include <glib.h>
#include <stdarg.h>

#include "base/escape.h"
#include "base/ini.h"
#include "hostd/config.h"
#include "hostd/log.h"
#include "hostd/names.h"
#include "proto/name.h"

#define CHANNEL_NAME_MAX 64 /* the socket's path, which ends in it, has to fit sockaddr_un */

typedef int (*KeyParse)(const char *value, void *field);

typedef struct Key {
        const char *name;
        KeyParse parse;
        size_t offset;
        const char *expects;
} Key;

static void strvp(char ***strv)
{
        g_strfreev(*strv);
}

static int parse_string(const char *value, void *field)
{
        char **s = field;

        if (*value == 0)
                return -EINVAL;
        g_free(*s);
        *s = g_strdup(value);
        return 0;
}

static int parse_channel(const char *value, void *field)
{
        if (strlen(value) > CHANNEL_NAME_MAX || *value == '.' || strpbrk(value, "/ \t\"'<>&") ||
            !name_is_text(value, CHANNEL_NAME_MAX))
                return -EINVAL;
        return parse_string(value, field);
}

static int parse_usec(const char *value, void *field)
{
        return ini_usec(value, field);
}

static int parse_count(const char *value, void *field)
{
        uint64_t n;
        int r = ini_size(value, &n);

        if (r < 0)
                return r;
        if (n > INT32_MAX)
                return -ERANGE;
        *(uint32_t *)field = (uint32_t)n;
        return 0;
}

/* Each assignment adds; an empty one forgets those before it. */
static int parse_guest_calls(const char *value, void *field)
{
        char ***list = field;
        _cleanup_(strvp) char **words = NULL;
        GPtrArray *all;

        words = g_strsplit_set(value, " \t", -1);
        for (char **w = words; *w; w++) {
                const char *colon = strchr(*w, ':');

                if (**w && (!colon || colon == *w || !colon[1]))
                        return -EINVAL;
        }
        all = g_ptr_array_new();
        for (char **w = *list; *value && w && *w; w++)
                g_ptr_array_add(all, g_strdup(*w));
        for (char **w = words; *w; w++)
                if (**w)
                        g_ptr_array_add(all, g_strdup(*w));
        g_ptr_array_add(all, NULL);
        g_strfreev(*list);
        *list = (char **)g_ptr_array_free(all, FALSE);
        return 0;
}

#define KEY(name, parse, member, expects)                                                                   \
        {                                                                                                   \
                name, parse, offsetof(Config, member), expects                                              \
        }
#define A_COUNT "a number"
#define A_TIME "a time, such as 30s or 5min"

static const Key keys[] = {
        KEY("ConnectUri", parse_string, connect_uri, "a libvirt URI, such as qemu:///system"),
        KEY("ControlChannel", parse_channel, control_channel, "the target name of a channel"),
        KEY("DataChannel", parse_channel, data_channel, "the target name of a channel"),
        KEY("KeepAlive", parse_usec, keepalive_usec, A_TIME ", or 0"),
        KEY("JobRetention", parse_usec, job_retention_usec, A_TIME),
        KEY("DetachedRetention", parse_usec, detached_retention_usec, A_TIME),
        KEY("MaxJobs", parse_count, max_jobs, A_COUNT),
        KEY("MaxJobsPerCaller", parse_count, max_jobs_per_caller, A_COUNT),
        KEY("MaxTransfers", parse_count, max_transfers, A_COUNT),
        KEY("MaxTransfersPerGuest", parse_count, max_transfers_per_guest, A_COUNT),
        KEY("MaxProcessesPerGuest", parse_count, max_processes_per_guest, A_COUNT),
        KEY("MaxCallsPerGuest", parse_count, max_calls_per_guest, A_COUNT),
        KEY("MaxCallsPerCaller", parse_count, max_calls_per_caller, A_COUNT),
        KEY("MaxMessagesPerSecond", parse_count, max_messages_per_second, A_COUNT),
        KEY("MaxQueuedPerGuest", parse_count, max_queued_per_guest, A_COUNT),
        KEY("MaxQueuedPerCaller", parse_count, max_queued_per_caller, A_COUNT),
        KEY("QueueTtl", parse_usec, queue_ttl_usec, A_TIME),
        KEY("AllowGuestCall", parse_guest_calls, guest_calls, "TOPIC-GLOB:GUEST-GLOB pairs"),
};

static void warn(Config *c, const char *file, unsigned line, const char *key, const char *format, ...)
        _printf_(5, 6);
static void warn(Config *c, const char *file, unsigned line, const char *key, const char *format, ...)
{
        _cleanup_(freep) char *why = NULL;
        va_list ap;

        va_start(ap, format);
        why = g_strdup_vprintf(format, ap);
        va_end(ap);
        c->n_warnings++;
        if (key)
                log_warning("%s:%u: %s: %s", file, line, key, why);
        else
                log_warning("%s:%u: %s", file, line, why);
}

static int on_assign(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                     const char *value)
{
        Config *c = userdata;
        const Key *k = NULL;

        if (!key)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(keys) && !k; i++)
                if (str_eq(keys[i].name, key))
                        k = &keys[i];
        if (!k) {
                warn(c, file, line, key, "no such key, the line is ignored");
                return 0;
        }
        if (k->parse(value, (char *)c + k->offset) < 0) {
                _cleanup_free_ char *shown = escape_text(value, strlen(value), 100);

                warn(c, file, line, key, "\"%s\" is not %s, the line is ignored", shown ? shown : "",
                     k->expects);
                return 0;
        }
        if (!str_eq(section, "Host"))
                warn(c, file, line, key, "belongs into the section [Host]; it is taken as if it were there");
        return 0;
}

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        warn(userdata, file, line, NULL, "%s, the line is ignored", why);
}

static char *user_directory(const char *variable, const char *fallback)
{
        const char *e = getenv(variable);

        return e && *e == '/' ? g_build_filename(e, "vmferry", NULL)
                              : g_build_filename(g_get_home_dir(), fallback, "vmferry", NULL);
}

static char *service_directory(const char *variable, char *otherwise)
{
        const char *e = getenv(variable);

        /* systemd gives a list, separated by colons, in the order of the unit's setting. */
        if (!e || *e != '/')
                return otherwise;
        g_free(otherwise);
        return g_strndup(e, strcspn(e, ":"));
}

static Config *config_new(bool user)
{
        Config *c = g_new0(Config, 1);
        const char *runtime = getenv("XDG_RUNTIME_DIR");

        *c = (Config){
                .user = user,
                .connect_uri = g_strdup(user ? "qemu:///session" : "qemu:///system"),
                .control_channel = g_strdup(CONTROL_CHANNEL),
                .data_channel = g_strdup(DATA_CHANNEL),
                .keepalive_usec = 30 * USEC_PER_SEC,
                .job_retention_usec = 60 * USEC_PER_SEC,
                .detached_retention_usec = 24 * 3600 * USEC_PER_SEC,
                .max_jobs = 4096,
                .max_jobs_per_caller = 256,
                .max_transfers = 64,
                .max_transfers_per_guest = 16,
                .max_processes_per_guest = 64,
                .max_calls_per_guest = 256,
                .max_calls_per_caller = 128,
                .max_messages_per_second = 1000,
                .max_queued_per_guest = 1000,
                .max_queued_per_caller = 10000,
                .queue_ttl_usec = 7 * 24 * 3600 * USEC_PER_SEC,
                .guest_calls = g_new0(char *, 1),
                .state_dir = user ? user_directory("XDG_STATE_HOME", ".local/state")
                                  : g_strdup("/var/lib/vmferry"),
                .runtime_dir = !user     ? g_strdup("/run/vmferry")
                               : runtime ? g_build_filename(runtime, "vmferry", NULL)
                                         : g_strdup_printf("/run/user/%u/vmferry", (unsigned)getuid()),
        };
        c->state_dir = service_directory("STATE_DIRECTORY", c->state_dir);
        c->runtime_dir = service_directory("RUNTIME_DIRECTORY", c->runtime_dir);
        return c;
}

static int read_one(Config *c, const char *file)
{
        int r = ini_read(file, on_assign, on_complaint, c);

        if (r < 0 && r != -ENOENT) {
                c->n_warnings++;
                log_warning("%s: cannot be read: %s", file, strerror(-r));
        }
        return r;
}

Config *config_load(bool user)
{
        _cleanup_(freep) char *own = user ? user_directory("XDG_CONFIG_HOME", ".config") : NULL;
        /* Ascending order of importance, as ini_list_files() wants it. */
        const char *roots[] = { "/usr/lib/vmferry", "/etc/vmferry", "/run/vmferry", own };
        char *dirs[ELEMENTSOF(roots) + 1] = {};
        char **files = NULL;
        Config *c = config_new(user);
        int r;

        for (size_t i = ELEMENTSOF(roots); i-- > 0;) {
                _cleanup_(freep) char *file = NULL;

                if (!roots[i])
                        continue;
                file = g_build_filename(roots[i], "hostd.conf", NULL);
                if (read_one(c, file) != -ENOENT)
                        break;
        }
        for (size_t i = 0, n = 0; i < ELEMENTSOF(roots); i++)
                if (roots[i])
                        dirs[n++] = g_build_filename(roots[i], "hostd.conf.d", NULL);
        r = ini_list_files((const char *const *)dirs, ".conf", &files);
        if (r < 0)
                log_warning("The directories hostd.conf.d cannot be read: %s", strerror(-r));
        for (char **f = files; f && *f; f++)
                (void)read_one(c, *f);
        for (size_t i = 0; i < ELEMENTSOF(dirs); i++)
                g_free(dirs[i]);
        ini_files_free(files);
        return c;
}

Config *config_load_file(bool user, const char *file)
{
        Config *c = config_new(user);

        c->file = g_strdup(file);
        if (read_one(c, file) == -ENOENT) {
                c->n_warnings++;
                log_warning("%s: no such file, the defaults are used", file);
        }
        return c;
}

Config *config_free(Config *c)
{
        if (!c)
                return NULL;
        g_free(c->connect_uri);
        g_free(c->control_channel);
        g_free(c->data_channel);
        g_strfreev(c->guest_calls);
        g_free(c->state_dir);
        g_free(c->runtime_dir);
        g_free(c->file);
        g_free(c);
        return NULL;
}
