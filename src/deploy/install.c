/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The unit and the rule are those of the guest's package, carried inside of this program. What starts the
 * daemon comes after it: half an installation starts nothing.
 */

#include <stdio.h>

#include "deploy/install.h"
#include "deploy/report.h"

#define PROGRAM_PATH "/usr/sbin/vmferry-guestd"
#define UNIT_NAME "vmferry-guestd.service"
#define INITTAB "/etc/inittab"
#define INITTAB_LINE "::respawn:" PROGRAM_PATH "\n"

/* Files of the source tree, by the assembler. */
#define EMBED(name, path)                                                                                   \
        __asm__(".pushsection .rodata\n" #name "_start:\n.incbin \"" path "\"\n.byte 0\n.popsection\n");    \
        extern const char name##_start[]
EMBED(deploy_unit, SOURCE_DIR "/data/systemd/vmferry-guestd.service.in");
EMBED(deploy_rule, SOURCE_DIR "/data/systemd/60-vmferry-guestd.rules");

static const char openrc_script[] = "#!/sbin/openrc-run\n"
                                    "description=\"This machine's end of vmferry\"\n"
                                    "command=" PROGRAM_PATH "\n"
                                    "command_args=--foreground\n"
                                    "command_background=yes\n"
                                    "pidfile=/run/vmferry-guestd.pid\n"
                                    "depend() {\n"
                                    "        need localmount\n"
                                    "        after udev mdev\n"
                                    "}\n";
static const char sysv_script[] = "#!/bin/sh\n"
                                  "### BEGIN INIT INFO\n"
                                  "# Provides:          vmferry-guestd\n"
                                  "# Required-Start:    $local_fs\n"
                                  "# Required-Stop:     $local_fs\n"
                                  "# Default-Start:     2 3 4 5\n"
                                  "# Default-Stop:      0 1 6\n"
                                  "# Short-Description: This machine's end of vmferry\n"
                                  "### END INIT INFO\n"
                                  "pid_of() {\n"
                                  "        for exe in /proc/[0-9]*/exe; do\n"
                                  "                [ \"$(readlink \"$exe\")\" = " PROGRAM_PATH
                                  " ] && exe=${exe#/proc/} && echo \"${exe%/exe}\"\n"
                                  "        done\n"
                                  "}\n"
                                  "case ${1:-} in\n"
                                  "start) " PROGRAM_PATH " --daemon ;;\n"
                                  "stop) for pid in $(pid_of); do kill \"$pid\"; done ;;\n"
                                  "restart | force-reload) \"$0\" stop; sleep 1; \"$0\" start ;;\n"
                                  "status) [ -n \"$(pid_of)\" ] ;;\n"
                                  "*) echo \"usage: $0 start|stop|restart|status\" >&2; exit 2 ;;\n"
                                  "esac\n";
static const char configuration[] = "# What the host may do here: see guestd.conf(5).\n[Guest]\n";

const char *init_system_to_string(InitSystem i)
{
        static const char *const names[] = { "systemd", "OpenRC", "busybox init", "SysV init",
                                             "no known init" };

        return names[i];
}

/* busybox's has no runlevels and mostly no ids. sysvinit's has an id in each line, also in the one of
 * sysinit, and tells the runlevel that is gone to. */
static bool is_of_busybox(const char *inittab)
{
        bool has_sysinit = false, has_default = false;

        for (const char *line = inittab; *line; line += strcspn(line, "\n"), line += *line == '\n') {
                size_t n = strcspn(line, "\n"), n_id = strcspn(line, ":\n");

                if (line[0] == '#' || line[n_id] != ':')
                        continue;
                const char *action = line + n_id + 1;
                action += strcspn(action, ":\n");
                if (action >= line + n)
                        continue;
                action++;
                if (str_has_prefix(action, "sysinit:")) {
                        if (n_id == 0)
                                return true;
                        has_sysinit = true;
                }
                has_default = has_default || str_has_prefix(action, "initdefault:");
        }
        return has_sysinit && !has_default;
}

/* What /sbin/init leads to is what runs; other inits may be installed beside it. sysvinit is no link. */
static int find_by_link(Target *t, bool is_sysv, InitSystem *ret)
{
        static const struct {
                const char *name;
                InitSystem init;
        } programs[] = {
                { "systemd", INIT_SYSTEMD },
                { "openrc-init", INIT_OPENRC },
                { "busybox", INIT_BUSYBOX },
        };
        _cleanup_free_ char *to = NULL;
        int r = t->ops->read_link(t, "/sbin/init", &to);

        *ret = INIT_NONE;
        if (r < 0)
                return r;
        if (r == 0) {
                r = is_sysv ? t->ops->is_there(t, "/sbin/init") : 0;
                *ret = r > 0 ? INIT_SYSV : INIT_NONE;
                return MIN(r, 0);
        }
        const char *slash = strrchr(to, '/');
        for (size_t i = 0; i < ELEMENTSOF(programs); i++)
                if (str_eq(slash ? slash + 1 : to, programs[i].name))
                        *ret = programs[i].init;
        return 0;
}

static int find_init(Target *t, InitSystem *ret)
{
        static const struct {
                const char *path;
                InitSystem init;
        } signs[] = {
                { "/usr/lib/systemd/systemd", INIT_SYSTEMD },
                { "/lib/systemd/systemd", INIT_SYSTEMD },
                { "/sbin/openrc-run", INIT_OPENRC },
                { "/usr/sbin/openrc-run", INIT_OPENRC },
        };
        _cleanup_free_ char *inittab = NULL;
        InitSystem linked;
        int r = t->ops->is_there(t, INITTAB);

        if (r > 0)
                r = t->ops->read(t, INITTAB, &inittab);
        if (r < 0)
                return r;
        bool is_busybox = inittab && is_of_busybox(inittab);
        r = find_by_link(t, inittab && !is_busybox, &linked);
        if (r < 0)
                return r;
        if (linked == INIT_SYSTEMD || linked == INIT_OPENRC) {
                *ret = linked;
                return 0;
        }
        /* OpenRC is started by busybox or sysvinit as well. */
        for (size_t i = 0; i < ELEMENTSOF(signs); i++) {
                if (linked != INIT_NONE && signs[i].init == INIT_SYSTEMD)
                        continue;
                r = t->ops->is_there(t, signs[i].path);
                if (r != 0) {
                        *ret = signs[i].init;
                        return MIN(r, 0);
                }
        }
        if (is_busybox || (inittab && linked == INIT_BUSYBOX)) {
                *ret = INIT_BUSYBOX;
                return 0;
        }
        r = t->ops->is_there(t, "/etc/init.d");
        *ret = r > 0 ? INIT_SYSV : INIT_NONE;
        return MIN(r, 0);
}

/* The directory of a path. */
static int parent_of(Target *t, const char *path, char **ret)
{
        size_t n = (size_t)(strrchr(path, '/') - path);

        *ret = n > 0 ? strndup(path, n) : strdup("/");
        return *ret ? 0 : target_fail(t, -ENOMEM, "no memory");
}

/* The directory's label, as the guest's kernel would give it to a new file. */
static int label(Install *i, Target *t, const char *path, const char *like)
{
        int r = t->ops->label ? t->ops->label(t, path, like) : 0;

        if (r > 0)
                i->n_labelled++;
        return MIN(r, 0);
}

static int check_interrupted(Target *t)
{
        return t->interrupted && *t->interrupted ? target_fail(t, -EINTR, "interrupted") : 0;
}

static int make_directories(Install *i, Target *t, const char *path)
{
        _cleanup_free_ char *parent = NULL;
        int r = t->ops->is_there(t, path);

        if (r != 0)
                return MIN(r, 0);
        r = parent_of(t, path, &parent);
        if (r == 0)
                r = make_directories(i, t, parent);
        if (r == 0)
                r = t->ops->make_directory(t, path);
        return r < 0 ? r : label(i, t, path, parent);
}

static int put(Install *i, Target *t, const char *path, const void *data, size_t n, mode_t mode)
{
        _cleanup_free_ char *parent = NULL;
        int r = check_interrupted(t);

        if (r == 0)
                r = t->ops->is_same(t, path, data, n);
        if (r < 0)
                return r;
        if (r > 0) {
                report_step("unchanged", "%s is up to date", path);
                return 0;
        }
        report_step("write", "%s %s (%zu bytes)", i->dry_run ? "would write" : "writing", path, n);
        if (i->dry_run)
                return 0;
        r = parent_of(t, path, &parent);
        if (r == 0)
                r = make_directories(i, t, parent);
        if (r == 0)
                r = t->ops->put(t, path, data, n, mode);
        if (r == 0)
                r = label(i, t, path, parent);
        if (r == 0)
                i->n_written++;
        return r;
}

static int put_text(Install *i, Target *t, const char *path, const char *text, mode_t mode)
{
        return put(i, t, path, text, strlen(text), mode);
}

static int put_link(Install *i, Target *t, const char *path, const char *to)
{
        _cleanup_free_ char *parent = NULL;
        int r = t->ops->is_there(t, path);

        if (r != 0)
                return MIN(r, 0);
        report_step("link", "%s %s to %s", i->dry_run ? "would link" : "linking", path, to);
        if (i->dry_run)
                return 0;
        r = parent_of(t, path, &parent);
        if (r == 0)
                r = make_directories(i, t, parent);
        if (r == 0)
                r = t->ops->link(t, path, to);
        if (r == 0)
                r = label(i, t, path, parent);
        if (r == 0)
                i->n_written++;
        return r;
}

static char *replace_all(const char *text, const char *what, const char *with)
{
        _cleanup_free_ char *out = strdup(text);

        for (char *at; out && (at = strstr(out, what));) {
                char *next;
                if (asprintf(&next, "%.*s%s%s", (int)(at - out), out, with, at + strlen(what)) < 0)
                        return NULL;
                free(out);
                out = next;
        }
        return TAKE(out);
}

static int install_systemd(Install *i, Target *t)
{
        _cleanup_free_ char *half = replace_all(deploy_unit_start, "@sbindir@", "/usr/sbin");
        _cleanup_free_ char *unit = half ? replace_all(half, "@datadir@", "/usr/share") : NULL;
        const char *path = "/etc/systemd/system/" UNIT_NAME;

        if (!unit)
                return target_fail(t, -ENOMEM, "no memory");
        /* A package's own unit is left to the package. */
        int r = t->ops->is_there(t, "/usr/lib/systemd/system/" UNIT_NAME);
        if (r < 0)
                return r;
        if (r > 0)
                path = "/usr/lib/systemd/system/" UNIT_NAME;
        else if ((r = put_text(i, t, path, unit, 0644)) < 0)
                return r;
        return put_link(i, t, "/etc/systemd/system/multi-user.target.wants/" UNIT_NAME, path);
}

static int install_sysv(Install *i, Target *t)
{
        static const char *const links[] = { "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d" };
        int r = put_text(i, t, "/etc/init.d/vmferry-guestd", sysv_script, 0755);

        for (size_t k = 0; r == 0 && k < ELEMENTSOF(links); k++) {
                char path[64];
                r = t->ops->is_there(t, links[k]);
                if (r <= 0)
                        continue;
                (void)snprintf(path, sizeof(path), "%s/S20vmferry-guestd", links[k]);
                r = put_link(i, t, path, "../init.d/vmferry-guestd");
        }
        return r;
}

static int install_busybox(Install *i, Target *t)
{
        _cleanup_free_ char *old = NULL, *text = NULL;
        int r = t->ops->read(t, INITTAB, &old);

        if (r < 0)
                return r;
        if (strstr(old, PROGRAM_PATH)) {
                report_step("unchanged", INITTAB " starts it already");
                return 0;
        }
        if (asprintf(&text, "%s%s" INITTAB_LINE, old, old[0] && old[strlen(old) - 1] != '\n' ? "\n" : "") <
            0) {
                text = NULL;
                return target_fail(t, -ENOMEM, "no memory");
        }
        return put_text(i, t, INITTAB, text, 0644);
}

static int install_init(Install *i, Target *t)
{
        int r;

        switch (i->init) {
        case INIT_SYSTEMD:
                return install_systemd(i, t);
        case INIT_OPENRC:
                r = put_text(i, t, "/etc/init.d/vmferry-guestd", openrc_script, 0755);
                return r < 0 ? r
                             : put_link(i, t, "/etc/runlevels/default/vmferry-guestd",
                                        "/etc/init.d/vmferry-guestd");
        case INIT_BUSYBOX:
                return install_busybox(i, t);
        case INIT_SYSV:
                return install_sysv(i, t);
        case INIT_NONE:
                return 0;
        }
        return 0;
}

int install_look(Install *i, Target *t, bool required)
{
        int r = find_init(t, &i->init);

        if (r < 0)
                return r;
        report_step("init", "the guest runs %s", init_system_to_string(i->init));
        if (i->init == INIT_NONE && required)
                return target_fail(
                        t, -EOPNOTSUPP,
                        "no systemd, OpenRC, SysV init or busybox inittab: nothing would start guestd");
        return 0;
}

int install_run(Install *i, Target *t, const Program *p)
{
        int r = t->ops->is_there(t, "/usr/lib/udev/rules.d");

        if (r == 0)
                r = t->ops->is_there(t, "/lib/udev/rules.d");
        if (r > 0)
                r = put_text(i, t, "/etc/udev/rules.d/60-vmferry-guestd.rules", deploy_rule_start, 0644);
        if (r >= 0)
                r = t->ops->is_there(t, "/etc/vmferry/guestd.conf");
        if (r == 0)
                r = put_text(i, t, "/etc/vmferry/guestd.conf", configuration, 0644);
        if (r >= 0)
                r = put(i, t, PROGRAM_PATH, p->data, p->n, 0755);
        if (r == 0)
                r = install_init(i, t);
        if (r == 0 && i->n_labelled > 0)
                report_step("label", "labelled %u paths for SELinux", i->n_labelled);
        return r;
}
