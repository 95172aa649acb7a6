/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The architecture is that of the programs in it: os-release doesn't tell.
 */

#include <elf.h>
#include <stdio.h>

#include "deploy/system.h"

static const char *const os_release[] = { "/etc/os-release", "/usr/lib/os-release" };

const char *const system_programs[] = {
        "/usr/lib/systemd/systemd", "/bin/sh", "/bin/busybox", "/sbin/init", "/usr/bin/env", NULL,
};

bool system_is_there(Target *t)
{
        const TargetOps *ops = t->ops;

        /* /usr may be a file system of its own, with os-release in it. */
        if (ops->is_there(t, "/etc") <= 0)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(os_release); i++)
                if (ops->is_there(t, os_release[i]) > 0)
                        return true;
        return ops->is_there(t, "/etc/fstab") > 0 && ops->is_there(t, "/usr") > 0;
}

void system_read_name(Target *t, char *ret, size_t size)
{
        _cleanup_free_ char *text = NULL;

        (void)snprintf(ret, size, "Linux");
        for (size_t i = 0; !text && i < ELEMENTSOF(os_release); i++)
                (void)t->ops->read(t, os_release[i], &text);
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                if (!str_has_prefix(line, "PRETTY_NAME="))
                        continue;
                line += strlen("PRETTY_NAME=");
                bool is_quoted = line[0] == '"' || line[0] == '\'';
                int n = (int)(is_quoted ? strcspn(line + 1, (char[]){ line[0], '\0' }) : strlen(line));
                (void)snprintf(ret, size, "%.*s", n, line + is_quoted);
        }
}

const char *system_architecture(Tree *t)
{
        uint8_t head[sizeof(Elf64_Ehdr)];
        Program p;
        size_t n;

        for (size_t i = 0; system_programs[i]; i++)
                if (tree_read_head(t, system_programs[i], head, sizeof(head), &n) == 0 &&
                    program_parse(head, n, &p) == 0)
                        return program_architecture(&p);
        return NULL;
}

char *system_fstab_source(Tree *t, const char *mount_point)
{
        _cleanup_free_ char *text = NULL;

        if (t->target.ops->is_there(&t->target, "/etc/fstab") <= 0 ||
            t->target.ops->read(&t->target, "/etc/fstab", &text) < 0)
                return NULL;
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                char *source = strtok_r(line, " \t", &line), *point = strtok_r(NULL, " \t", &line);
                if (source && point && source[0] != '#' && str_eq(point, mount_point))
                        return strdup(source);
        }
        return NULL;
}
