/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One table of keys; each kind of value has its judge. A value that is refused leaves the one before it in
 * place. Lists add up over lines and files, and an empty assignment empties them, as in unit files.
 */

#include <stdio.h>

#include "base/ini.h"
#include "guestd/config.h"
#include "guestd/log.h"
#include "proto/limits.h"
#include "proto/name.h"

#define LIST_MAX 256u

DEFINE_CLEANUP(char **, ini_files_free);

typedef enum Kind {
        KIND_CHANNEL,
        KIND_LEVEL,
        KIND_PATH,
        KIND_USEC,
        KIND_COUNT,
        KIND_SIZE,
        KIND_MODE,
        KIND_GROUP,
        KIND_ALLOW,
        KIND_WORDS,
        KIND_COMMANDS,
        KIND_ROOTS,
} Kind;

typedef struct Key {
        const char *name;
        Kind kind;
        size_t offset;
        uint64_t min, max;
} Key;

#define ALLOW(verb) offsetof(Config, policy.allow[verb]), 0, 0

static const Key keys[] = {
        { "ControlChannel", KIND_CHANNEL, offsetof(Config, control_channel), 0, 0 },
        { "DataChannel", KIND_CHANNEL, offsetof(Config, data_channel), 0, 0 },
        { "LogLevel", KIND_LEVEL, offsetof(Config, log_level), 0, 0 },
        { "HandlersDirectory", KIND_PATH, offsetof(Config, handlers_dir), 0, 0 },
        { "HandlerTimeout", KIND_USEC, offsetof(Config, handler_timeout_usec), USEC_PER_MSEC,
          USEC_INFINITY },
        { "HandlersMax", KIND_COUNT, offsetof(Config, handlers_max), 1, 1024 },
        { "ProcessesMax", KIND_COUNT, offsetof(Config, processes_max), 1, 65536 },
        { "SpoolSize", KIND_SIZE, offsetof(Config, spool_bytes), 65536, UINT64_MAX / 2 },
        { "SpoolKeep", KIND_USEC, offsetof(Config, spool_keep_usec), 0, USEC_INFINITY },
        { "PublishQueueMax", KIND_COUNT, offsetof(Config, publish_queue_max), 0, 1000000 },
        { "KillGrace", KIND_USEC, offsetof(Config, kill_grace_usec), 0, 3600 * USEC_PER_SEC },
        { "SocketMode", KIND_MODE, offsetof(Config, socket_mode), 0, 0 },
        { "SocketGroup", KIND_GROUP, offsetof(Config, socket_group), 0, 0 },
        { "AllowExec", KIND_ALLOW, ALLOW(POLICY_EXEC) },
        { "AllowPush", KIND_ALLOW, ALLOW(POLICY_PUSH) },
        { "AllowPull", KIND_ALLOW, ALLOW(POLICY_PULL) },
        { "AllowSend", KIND_ALLOW, ALLOW(POLICY_SEND) },
        { "AllowCall", KIND_ALLOW, ALLOW(POLICY_CALL) },
        { "AllowUpgrade", KIND_ALLOW, ALLOW(POLICY_UPGRADE) },
        { "ExecUsers", KIND_WORDS, offsetof(Config, policy.exec_users), 0, 0 },
        { "ExecCommands", KIND_COMMANDS, offsetof(Config, policy.exec_commands), 0, 0 },
        { "WriteRoots", KIND_ROOTS, offsetof(Config, policy.write_roots), 0, 0 },
        { "ReadRoots", KIND_ROOTS, offsetof(Config, policy.read_roots), 0, 0 },
        { "LocalTopics", KIND_WORDS, offsetof(Config, policy.local_topics), 0, 0 },
};

typedef struct Reader {
        Config *config;
        unsigned n_complaints;
        bool told_section;
        bool quiet;
} Reader;

static int replace(char **field, const char *value)
{
        char *copy = NULL;
        if (value && !(copy = strdup(value)))
                return -ENOMEM;
        free(*field);
        *field = copy;
        return 0;
}

static bool is_channel(const char *value)
{
        if (value[0] == '/')
                return name_is_absolute_path(value);
        return value[0] && !strchr(value, '/') && strlen(value) <= NAME_BYTES_MAX &&
               name_is_text(value, NAME_BYTES_MAX);
}

/* The value as a list item: a command's glob and a root are absolute; a root loses its trailing slash. */
static bool check_item(Kind kind, char *item)
{
        size_t n = strlen(item);

        if (kind == KIND_WORDS)
                return true;
        if (!name_is_absolute_path(item) && !str_eq(item, "/"))
                return false;
        if (kind == KIND_ROOTS && n > 1 && item[n - 1] == '/')
                item[n - 1] = '\0';
        return true;
}

/* 0; -EINVAL: `value` has an item that is none, which is left out; -ENOMEM. */
static int assign_list(Kind kind, char ***list, const char *value)
{
        size_t n = 0;
        int r = 0;

        if (!value[0])
                for (char **s = *list; s && *s; s++) {
                        free(*s);
                        *s = NULL;
                }
        while (*list && (*list)[n])
                n++;
        for (const char *p = value;;) {
                /* Space or comma: what people write between user names; neither is of use in a path here. */
                p += strspn(p, " \t,");
                size_t length = strcspn(p, " \t,");
                if (!length)
                        break;
                _cleanup_free_ char *item = strndup(p, length);
                if (!item)
                        return -ENOMEM;
                p += length;
                if (n >= LIST_MAX || !check_item(kind, item)) {
                        r = -EINVAL;
                        continue;
                }
                char **grown = realloc(*list, (n + 2) * sizeof(char *));
                if (!grown)
                        return -ENOMEM;
                grown[n++] = TAKE(item);
                grown[n] = NULL;
                *list = grown;
        }
        /* An empty assignment, and one of which nothing was right, is a list that admits nothing: a mistake
         * never opens. */
        if (!*list && !(*list = calloc(1, sizeof(char *))))
                return -ENOMEM;
        return r;
}

static int assign_mode(mode_t *field, const char *value)
{
        char *end;
        unsigned long mode = strtoul(value, &end, 8);
        if (end == value || *end || value[0] == '-' || mode > 0777)
                return -EINVAL;
        *field = (mode_t)mode;
        return 0;
}

static int assign_key(Config *config, const Key *key, const char *value)
{
        void *field = (char *)config + key->offset;
        uint64_t number = 0;
        bool flag = false;
        int r = 0;

        switch (key->kind) {
        case KIND_CHANNEL:
                return is_channel(value) ? replace(field, value) : -EINVAL;
        case KIND_LEVEL:
                r = log_level_from_string(value);
                if (r < 0)
                        return r;
                *(int *)field = r;
                return 0;
        case KIND_PATH:
                return name_is_absolute_path(value) ? replace(field, value) : -EINVAL;
        case KIND_GROUP:
                return replace(field, value[0] ? value : NULL);
        case KIND_USEC:
                r = ini_usec(value, &number);
                break;
        case KIND_COUNT:
        case KIND_SIZE:
                r = ini_size(value, &number);
                break;
        case KIND_MODE:
                return assign_mode(field, value);
        case KIND_ALLOW:
                /* A typo in a switch that guards something closes it. */
                r = ini_bool(value, &flag);
                *(bool *)field = r == 0 && flag;
                return r;
        case KIND_WORDS:
        case KIND_COMMANDS:
        case KIND_ROOTS:
                return assign_list(key->kind, field, value);
        }
        if (r < 0)
                return r;
        if (number < key->min || number > key->max)
                return -ERANGE;
        if (key->kind == KIND_COUNT)
                *(unsigned *)field = (unsigned)number;
        else
                *(uint64_t *)field = number;
        return 0;
}

static const char *kind_expects(Kind kind)
{
        switch (kind) {
        case KIND_CHANNEL:
                return "expected a port's name or the absolute path of a device node";
        case KIND_LEVEL:
                return "expected error, warning, notice, info or debug";
        case KIND_PATH:
                return "expected an absolute path";
        case KIND_USEC:
                return "expected a time such as 30s or 5min";
        case KIND_COUNT:
                return "expected a number";
        case KIND_SIZE:
                return "expected a size such as 64K or 16M";
        case KIND_MODE:
                return "expected an octal mode such as 0660";
        case KIND_GROUP:
                return "expected a group";
        case KIND_ALLOW:
                return "expected yes or no; taken as no";
        case KIND_WORDS:
                return "too many words; the rest is left out";
        case KIND_COMMANDS:
                return "expected absolute paths, which may have globs; what is none is left out";
        case KIND_ROOTS:
                return "expected absolute directories; what is none is left out";
        }
        return "";
}

static int on_assign(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                     const char *value)
{
        Reader *r = userdata;

        if (!key)
                return 0;
        if (!str_eq(section, "Guest") && !r->told_section) {
                r->told_section = true;
                r->n_complaints++;
                if (!r->quiet)
                        log_warning("%s:%u: %s: expected in section [Guest]; taken all the same", file, line,
                                    key);
        }
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (!str_eq(keys[i].name, key))
                        continue;
                int e = assign_key(r->config, &keys[i], value);
                if (e == -ENOMEM)
                        return e;
                if (e < 0) {
                        r->n_complaints++;
                        if (!r->quiet)
                                log_warning("%s:%u: %s=%s: %s%s", file, line, key, value,
                                            e == -ERANGE ? "out of range; " : "",
                                            kind_expects(keys[i].kind));
                }
                return 0;
        }
        r->n_complaints++;
        if (!r->quiet)
                log_warning("%s:%u: %s: no such key, ignored", file, line, key);
        return 0;
}

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        Reader *r = userdata;

        r->n_complaints++;
        if (!r->quiet)
                log_warning("%s:%u: %s; the line is ignored", file, line, why);
}

int config_init(Config *c)
{
        *c = (Config){
                .log_level = LOG_INFO,
                .handler_timeout_usec = 60 * USEC_PER_SEC,
                .handlers_max = 16,
                .processes_max = 256,
                .spool_bytes = 16ULL * 1024 * 1024,
                .spool_keep_usec = 7 * 24 * 3600 * USEC_PER_SEC,
                .publish_queue_max = 4096,
                .kill_grace_usec = 5 * USEC_PER_SEC,
                .socket_mode = 0660,
        };
        policy_init(&c->policy);
        if (replace(&c->control_channel, CONTROL_CHANNEL_DEFAULT) < 0 ||
            replace(&c->data_channel, DATA_CHANNEL_DEFAULT) < 0 ||
            replace(&c->handlers_dir, "/etc/vmferry/handlers.d") < 0) {
                config_done(c);
                return -ENOMEM;
        }
        return 0;
}

void config_done(Config *c)
{
        free(c->control_channel);
        free(c->data_channel);
        free(c->handlers_dir);
        free(c->socket_group);
        policy_done(&c->policy);
        *c = (Config){ 0 };
}

int config_parse(const char *name, const char *text, size_t n, Config *config, unsigned *ret_n_complaints)
{
        Reader r = { .config = config, .quiet = true };

        int e = ini_parse(name, text, n, on_assign, on_complaint, &r);
        if (e < 0)
                return e;
        *ret_n_complaints = r.n_complaints;
        return 0;
}

/* 1: it was there and could not be read. */
static int read_one(const char *file, Reader *r)
{
        r->told_section = false;
        int e = ini_read(file, on_assign, on_complaint, r);
        if (e >= 0 || e == -ENOENT)
                return 0;
        if (e == -ENOMEM)
                return e;
        log_error("%s: %s; the host may do nothing here until it can be read", file, strerror(-e));
        return 1;
}

static int read_all(Config *config)
{
        static const char *const dirs[] = { "/usr/lib/vmferry/guestd.conf.d", "/etc/vmferry/guestd.conf.d",
                                            "/run/vmferry/guestd.conf.d", NULL };
        Reader r = { .config = config };
        _cleanup_(ini_files_freep) char **files = NULL;

        int unreadable = read_one("/etc/vmferry/guestd.conf", &r);
        if (unreadable < 0)
                return unreadable;
        int e = ini_list_files(dirs, ".conf", &files);
        if (e < 0)
                return e;
        for (char **f = files; f && *f; f++) {
                e = read_one(*f, &r);
                if (e < 0)
                        return e;
                unreadable |= e;
        }
        /* What such a file would have forbidden is unknown: so nothing is allowed, whatever the others say.
         */
        for (size_t i = 0; unreadable && i < _POLICY_VERB_MAX; i++)
                config->policy.allow[i] = false;
        return 0;
}

int config_load(const char *file, Config *ret)
{
        Config c;

        int r = config_init(&c);
        if (r < 0)
                return r;
        Reader reader = { .config = &c };
        r = file ? ini_read(file, on_assign, on_complaint, &reader) : read_all(&c);
        if (r < 0) {
                config_done(&c);
                return r;
        }
        *ret = c;
        return 0;
}
