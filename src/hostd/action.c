/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/action.h"

#include <fnmatch.h>
#include <glib.h>

#include "base/base.h"
#include "base/fs.h"
#include "base/ini.h"
#include "proto/limits.h"
#include "proto/name.h"

#define STEPS_MAX 64u
#define RETRIES_MAX 100u
#define TIMEOUT_DEFAULT_USEC (60 * USEC_PER_SEC)

typedef struct Parse {
        Action *action;
        ActionComplain complain;
        void *userdata;
        bool failed;
} Parse;

static const char *const once_names[] = { "boot", "guest", "always" };
static const char *const verb_names[] = { "push", "pull", "run", "send", "call" };

#define OF(verb) (1u << (verb))
#define OF_FILES (OF(STEP_PUSH) | OF(STEP_PULL))
#define OF_ALL (OF_FILES | OF(STEP_RUN) | OF(STEP_SEND) | OF(STEP_CALL))
static const struct {
        const char *key;
        unsigned verbs;
} step_options[ACTION_STEP_OPTIONS] = {
        { "Mode", OF_FILES },
        { "Owner", OF_FILES },
        { "Preserve", OF_FILES },
        { "Overwrite", OF_FILES },
        { "User", OF(STEP_RUN) },
        { "WorkingDirectory", OF(STEP_RUN) },
        { "Environment", OF(STEP_RUN) },
        { "Timeout", OF_ALL },
};

const char *action_once_to_string(ActionOnce once)
{
        return once_names[once];
}

const char *step_verb_to_string(StepVerb v)
{
        return verb_names[v];
}

const char *action_on_to_string(const Action *a)
{
        switch (a->on) {
        case ACTION_ON_READY:
                return "ready";
        case ACTION_ON_STARTED:
                return "started";
        case ACTION_ON_STOPPED:
                return "stopped";
        case ACTION_ON_MESSAGE:
                return "message";
        }
        return "";
}

static void step_done(ActionStep *s)
{
        g_free(s->name);
        g_free(s->from);
        g_free(s->to);
        g_strfreev(s->argv);
        g_free(s->topic);
        g_free(s->text);
        g_free(s->owner);
        g_free(s->overwrite);
        g_free(s->user);
        g_free(s->cwd);
        g_strfreev(s->env);
}

Action *action_free(Action *a)
{
        if (!a)
                return NULL;
        for (size_t i = 0; i < a->n_steps; i++)
                step_done(&a->steps[i]);
        g_free(a->steps);
        g_free(a->name);
        g_free(a->file);
        g_free(a->description);
        g_strfreev(a->guests);
        g_free(a->topic);
        g_free(a);
        return NULL;
}

static void complain(Parse *p, unsigned line, const char *format, ...) G_GNUC_PRINTF(3, 4);
static void complain(Parse *p, unsigned line, const char *format, ...)
{
        va_list ap;
        char *why;

        va_start(ap, format);
        why = g_strdup_vprintf(format, ap);
        va_end(ap);
        p->failed = true;
        p->complain(p->userdata, p->action->file, line, why);
        g_free(why);
}

/* What stands behind white space and '#' is a remark. In values that may have a '#' of their own (is_text)
 * there is white space on both of its sides; in those with quotes it stands outside of them. */
static char *without_remark(const char *value, bool is_text, bool has_quotes)
{
        char *copy = g_strdup(value), quote = 0;

        for (char *c = copy; *c; c++) {
                if (has_quotes && c[0] == '\\' && c[1] && quote != '\'')
                        c++;
                else if (has_quotes && quote)
                        quote = *c == quote ? 0 : quote;
                else if (has_quotes && (*c == '\'' || *c == '"'))
                        quote = *c;
                else if (*c == '#' && c > copy && g_ascii_isspace(c[-1]) &&
                         (!is_text || !c[1] || g_ascii_isspace(c[1]))) {
                        *c = 0;
                        break;
                }
        }
        return g_strchomp(copy);
}

static bool guest_pattern_is_valid(const char *pattern)
{
        return g_str_has_prefix(pattern, "uuid:") ? g_uuid_string_is_valid(pattern + 5) : pattern[0] != 0;
}

static void assign_guests(Parse *p, unsigned line, const char *value)
{
        p->action->guests_line = line;
        g_strfreev(p->action->guests);
        p->action->guests = g_strsplit_set(value, "; \t", -1);
        char **out = p->action->guests;
        for (char **in = p->action->guests; *in; in++)
                if ((*in)[0] == 0)
                        g_free(*in);
                else {
                        if (!guest_pattern_is_valid(*in))
                                complain(p, line, "Guests=: '%s' is not the UUID of a domain", *in);
                        *out++ = *in;
                }
        *out = NULL;
        if (!p->action->guests[0])
                complain(p, line,
                         "Guests= names no guest: give globs on the name, or uuid:…, separated by ';'");
}

static void assign_on(Parse *p, unsigned line, const char *value)
{
        Action *a = p->action;

        if (str_eq(value, "ready"))
                a->on = ACTION_ON_READY;
        else if (str_eq(value, "started"))
                a->on = ACTION_ON_STARTED;
        else if (str_eq(value, "stopped"))
                a->on = ACTION_ON_STOPPED;
        else if (g_str_has_prefix(value, "message:") && name_is_topic(value + 8)) {
                a->on = ACTION_ON_MESSAGE;
                g_free(a->topic);
                a->topic = g_strdup(value + 8);
        } else
                complain(p, line, "On=%s: it must be ready, started, stopped or message:TOPIC", value);
}

static void assign_usec(Parse *p, unsigned line, const char *key, const char *value, uint64_t *ret)
{
        uint64_t v;

        if (ini_usec(value, &v) < 0 || v == 0)
                complain(p, line, "%s=%s: it must be a time such as 60s or 5min", key, value);
        else
                *ret = v;
}

static void assign_action(Parse *p, unsigned line, const char *key, const char *raw)
{
        g_autofree char *value = without_remark(raw, str_eq(key, "Description"), false);
        Action *a = p->action;

        if (str_eq(key, "Description")) {
                g_free(a->description);
                a->description = TAKE(value);
        } else if (str_eq(key, "Guests"))
                assign_guests(p, line, value);
        else if (str_eq(key, "On"))
                assign_on(p, line, value);
        else if (str_eq(key, "Once")) {
                for (unsigned i = 0; i < ELEMENTSOF(once_names); i++)
                        if (str_eq(value, once_names[i])) {
                                a->once = (ActionOnce)i;
                                return;
                        }
                complain(p, line, "Once=%s: it must be boot, guest or always", value);
        } else if (str_eq(key, "Timeout"))
                assign_usec(p, line, key, value, &a->timeout_usec);
        else if (str_eq(key, "Retries")) {
                guint64 n;

                if (!g_ascii_string_to_unsigned(value, 10, 0, RETRIES_MAX, &n, NULL))
                        complain(p, line, "Retries=%s: it must be a number up to %u", value, RETRIES_MAX);
                else
                        a->n_retries = (unsigned)n;
        } else
                complain(
                        p, line,
                        "[Action] has no key %s=: it has Description, Guests, On, Once, Timeout and Retries",
                        key);
}

static void assign_paths(Parse *p, ActionStep *s, unsigned line, const char *value)
{
        const char *colon = strstr(value, ":/");

        if (value[0] != '/' || !colon) {
                complain(p, line,
                         "[Step %s]: %s takes two absolute paths with a colon between them, not '%s'",
                         s->name, s->verb == STEP_PUSH ? "Push=HOST:GUEST" : "Pull=GUEST:HOST", value);
                return;
        }
        s->from = g_strndup(value, (gsize)(colon - value));
        s->to = g_strdup(colon + 1);
        if (!name_is_absolute_path(s->from) || !name_is_absolute_path(s->to))
                complain(p, line, "[Step %s]: a path may not have empty, '.' or '..' components: '%s'",
                         s->name, value);
}

static void assign_message(Parse *p, ActionStep *s, unsigned line, const char *value)
{
        gsize n = strcspn(value, " \t");

        s->topic = g_strndup(value, n);
        s->text = g_strdup(value + n + strspn(value + n, " \t"));
        if (!name_is_topic(s->topic))
                complain(p, line, "[Step %s]: '%s' is not the name of a topic", s->name, s->topic);
        if (strlen(s->text) > PAYLOAD_MAX)
                complain(p, line, "[Step %s]: the text is more than a message can carry (64 KiB)", s->name);
}

static void assign_verb(Parse *p, ActionStep *s, unsigned line, StepVerb verb, const char *raw)
{
        g_autofree char *value = without_remark(raw, verb != STEP_RUN, verb == STEP_RUN);

        if (s->has_verb) {
                complain(p, line, "[Step %s] has a verb already: one of Push, Pull, Run, Send, Call a step",
                         s->name);
                return;
        }
        s->has_verb = true;
        s->line = line;
        s->verb = verb;
        switch (verb) {
        case STEP_PUSH:
        case STEP_PULL:
                assign_paths(p, s, line, value);
                break;
        case STEP_RUN: {
                g_autoptr(GError) error = NULL;

                if (!g_shell_parse_argv(value, NULL, &s->argv, &error))
                        complain(p, line, "[Step %s]: Run=: %s", s->name, error->message);
                break;
        }
        case STEP_SEND:
        case STEP_CALL:
                assign_message(p, s, line, value);
                break;
        }
}

static void assign_step_option(Parse *p, ActionStep *s, unsigned line, const char *key, const char *raw)
{
        g_autofree char *value = without_remark(raw, false, str_eq(key, "Environment"));
        char **text = str_eq(key, "Owner")              ? &s->owner
                      : str_eq(key, "User")             ? &s->user
                      : str_eq(key, "WorkingDirectory") ? &s->cwd
                                                        : NULL;
        guint64 mode;

        for (size_t i = 0; i < ELEMENTSOF(step_options); i++)
                if (str_eq(key, step_options[i].key))
                        s->option_lines[i] = line;
        if (text) {
                g_free(*text);
                *text = g_strdup(value);
                if (text == &s->cwd && !name_is_rooted(value))
                        complain(p, line, "[Step %s]: WorkingDirectory= takes an absolute path", s->name);
        } else if (str_eq(key, "Overwrite")) {
                if (!str_eq(value, "replace") && !str_eq(value, "fail") && !str_eq(value, "update"))
                        complain(p, line, "[Step %s]: Overwrite=%s: it must be replace, fail or update",
                                 s->name, value);
                g_free(s->overwrite);
                s->overwrite = g_strdup(value);
        } else if (str_eq(key, "Mode")) {
                if (!g_ascii_string_to_unsigned(value, 8, 0, 07777, &mode, NULL))
                        complain(p, line, "[Step %s]: Mode=%s: it must be octal, such as 0644", s->name,
                                 value);
                else
                        s->mode = (uint32_t)mode;
        } else if (str_eq(key, "Preserve")) {
                if (ini_bool(value, &s->preserve) < 0)
                        complain(p, line, "[Step %s]: Preserve=%s: it must be yes or no", s->name, value);
        } else if (str_eq(key, "Timeout"))
                assign_usec(p, line, key, value, &s->timeout_usec);
        else if (str_eq(key, "Environment")) {
                g_autoptr(GError) error = NULL;
                gint n = 0;

                g_strfreev(s->env);
                s->env = NULL;
                if (!g_shell_parse_argv(value, &n, &s->env, &error))
                        complain(p, line, "[Step %s]: Environment=: %s", s->name, error->message);
                for (gint i = 0; i < n; i++)
                        if (!strchr(s->env[i], '=') || s->env[i][0] == '=')
                                complain(p, line, "[Step %s]: Environment= takes NAME=VALUE, not '%s'",
                                         s->name, s->env[i]);
        } else
                complain(p, line,
                         "[Step %s] has no key %s=: it has Push, Pull, Run, Send, Call, Mode, Owner, "
                         "Preserve, Overwrite, "
                         "User, WorkingDirectory, Environment and Timeout",
                         s->name, key);
}

static ActionStep *step_of(Parse *p, unsigned line, const char *section)
{
        Action *a = p->action;
        ActionStep *s;

        for (size_t i = 0; i < a->n_steps; i++)
                if (str_eq(a->steps[i].name, section + 5))
                        return &a->steps[i];
        if (a->n_steps == STEPS_MAX) {
                complain(p, line, "more than %u steps", STEPS_MAX);
                return NULL;
        }
        a->steps = g_renew(ActionStep, a->steps, a->n_steps + 1);
        s = &a->steps[a->n_steps++];
        *s = (ActionStep){ .name = g_strdup(section + 5), .line = line, .mode = UINT32_MAX };
        return s;
}

static int on_assign(void *userdata, const char *file, unsigned line, const char *section, const char *key,
                     const char *value)
{
        Parse *p = userdata;
        ActionStep *s;

        if (str_eq(section, "Action")) {
                if (key)
                        assign_action(p, line, key, value);
                else if (p->action->line == 0)
                        p->action->line = line;
        } else if (g_str_has_prefix(section, "Step ") && section[5]) {
                s = step_of(p, line, section);
                if (!s)
                        return -EINVAL;
                if (!key)
                        return 0;
                for (unsigned v = 0; v < ELEMENTSOF(verb_names); v++)
                        if (g_ascii_strcasecmp(key, verb_names[v]) == 0 && g_ascii_isupper(key[0])) {
                                assign_verb(p, s, line, (StepVerb)v, value);
                                return 0;
                        }
                assign_step_option(p, s, line, key, value);
        } else if (!key)
                complain(p, line, "there is no section [%s]: it is [Action] or [Step NAME]", section);
        else if (!section[0])
                complain(p, line, "'%s=' stands outside of [Action] and [Step NAME]", key);
        return 0;
}

static void on_complain(void *userdata, const char *file, unsigned line, const char *why)
{
        complain(userdata, line, "%s", why);
}

/* Known when all was read: an option may stand before its verb. */
static void check_options(Parse *p, const ActionStep *s)
{
        for (size_t i = 0; i < ELEMENTSOF(step_options); i++)
                if (s->option_lines[i] > 0 && !(step_options[i].verbs & OF(s->verb)))
                        complain(p, s->option_lines[i],
                                 "[Step %s]: %s= has no meaning here: it belongs to %s, and the step is a "
                                 "%c%s",
                                 s->name, step_options[i].key,
                                 step_options[i].verbs == OF_FILES ? "Push and Pull" : "Run",
                                 g_ascii_toupper(verb_names[s->verb][0]), verb_names[s->verb] + 1);
}

int action_parse(const char *file, const char *text, size_t n, ActionComplain complaints, void *userdata,
                 Action **ret)
{
        Action *a = g_new0(Action, 1);
        Parse p = { .action = a, .complain = complaints, .userdata = userdata };
        int r;

        a->file = g_strdup(file);
        a->name = g_path_get_basename(file);
        if (g_str_has_suffix(a->name, ".action"))
                a->name[strlen(a->name) - strlen(".action")] = 0;
        a->description = g_strdup("");
        a->timeout_usec = TIMEOUT_DEFAULT_USEC;
        r = ini_parse(file, text, n, on_assign, on_complain, &p);
        if (r < 0)
                p.failed = true;
        if (!a->guests)
                complain(&p, MAX(a->line, 1u), "[Action] has no Guests=: name at least one, '*' for all");
        if (a->n_steps == 0)
                complain(&p, MAX(a->line, 1u), "there is no [Step NAME]");
        for (size_t i = 0; i < a->n_steps; i++) {
                if (a->steps[i].has_verb)
                        check_options(&p, &a->steps[i]);
                if (!a->steps[i].has_verb)
                        complain(&p, a->steps[i].line,
                                 "[Step %s] has no verb: one of Push, Pull, Run, Send, Call",
                                 a->steps[i].name);
                else if (a->on == ACTION_ON_STOPPED &&
                         (a->steps[i].verb == STEP_PULL || a->steps[i].verb == STEP_CALL))
                        complain(&p, a->steps[i].line,
                                 "[Step %s]: a guest that has stopped has no answer: On=stopped takes Push, "
                                 "Run and Send, which "
                                 "are queued for its next start",
                                 a->steps[i].name);
        }
        if (p.failed) {
                action_free(a);
                return -EINVAL;
        }
        *ret = a;
        return 0;
}

int action_load(const char *file, ActionComplain complaints, void *userdata, Action **ret)
{
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        r = fs_read_file(file, INI_FILE_MAX, &text, &n);
        return r < 0 ? r : action_parse(file, text, n, complaints, userdata, ret);
}

bool action_pattern_matches(const char *pattern, const char *name, const char *uuid)
{
        return g_str_has_prefix(pattern, "uuid:") ? g_ascii_strcasecmp(pattern + 5, uuid) == 0
                                                  : fnmatch(pattern, name, 0) == 0;
}

bool action_is_for(const Action *a, const char *name, const char *uuid)
{
        for (char **g = a->guests; *g; g++)
                if (action_pattern_matches(*g, name, uuid))
                        return true;
        return false;
}

char **action_directories(bool user)
{
        char **dirs = g_new0(char *, 4);

        if (user) {
                dirs[0] = g_build_filename(g_get_user_config_dir(), "vmferry", "actions.d", NULL);
                return dirs;
        }
        dirs[0] = g_strdup("/usr/lib/vmferry/actions.d");
        dirs[1] = g_strdup("/etc/vmferry/actions.d");
        dirs[2] = g_strdup("/run/vmferry/actions.d");
        return dirs;
}

int action_list_files(char **dirs, void (*unreadable)(void *userdata, const char *dir, int r),
                      void *userdata, char ***ret)
{
        g_autofree const char **readable = g_new0(const char *, g_strv_length(dirs) + 1);
        size_t n = 0;

        for (char **d = dirs; *d; d++) {
                const char *const one[] = { *d, NULL };
                char **files = NULL;
                int r = ini_list_files(one, ".action", &files);

                if (r < 0)
                        unreadable(userdata, *d, r);
                else
                        readable[n++] = *d;
                (void)ini_files_free(files);
        }
        return ini_list_files(readable, ".action", ret);
}
