/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LVM is told to see these disks only, and to write nothing about them on this host. udev may have activated
 * a group before us; it is deactivated all the same: the disks leave.
 */

#include <stdio.h>

#include "base/fs.h"
#include "deploy/command.h"
#include "deploy/volumes.h"

#define LVM_MEMBER "LVM2_member"
#define PARTITIONS_MAX 32u
#define BUSY_USEC (10 * USEC_PER_SEC)
#define STEP_USEC (200 * USEC_PER_MSEC)

static void set_value(Volume *v, const char *key, const char *value)
{
        const struct {
                const char *key;
                char *value;
                size_t n;
        } keys[] = {
                { "TYPE", v->type, sizeof(v->type) },
                { "UUID", v->uuid, sizeof(v->uuid) },
                { "LABEL", v->label, sizeof(v->label) },
                { "PART_ENTRY_UUID", v->part_uuid, sizeof(v->part_uuid) },
                { "PTTYPE", v->table, sizeof(v->table) },
        };

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (str_eq(keys[i].key, key))
                        (void)snprintf(keys[i].value, keys[i].n, "%s", value);
}

/* blkid fails where it knows nothing of a device, and that is an answer. */
static int probe(Volume *v, Target *t)
{
        const char *argv[] = { "blkid", "-p", "-o", "export", v->device, NULL };
        _cleanup_free_ char *text = NULL;
        int r = command_run(t, argv, &text);

        if (r == -ENOENT)
                return r;
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                char *value = strchr(line, '=');
                if (value) {
                        *value = '\0';
                        set_value(v, line, value + 1);
                }
        }
        return 0;
}

static int add(Volumes *v, Target *t, const char *device, unsigned disk, unsigned partition)
{
        if (v->n == VOLUMES_MAX)
                return target_fail(t, -E2BIG, "there are more than %u volumes in it", VOLUMES_MAX);
        Volume *volume = &v->volumes[v->n];
        *volume = (Volume){ .disk = disk, .partition = partition };
        (void)snprintf(volume->device, sizeof(volume->device), "%s", device);
        int r = probe(volume, t);
        if (r == 0)
                v->n++;
        return r;
}

static int add_disk(Volumes *v, Target *t, const Nbd *disk, unsigned number)
{
        unsigned partitions[PARTITIONS_MAX], n = nbd_partitions(disk, partitions, PARTITIONS_MAX);
        char device[64];
        int r = 0;

        if (n == 0)
                return add(v, t, disk->device, number, 0);
        for (unsigned i = 0; r == 0 && i < n; i++) {
                (void)snprintf(device, sizeof(device), "%sp%u", disk->device, partitions[i]);
                r = add(v, t, device, number, partitions[i]);
        }
        return r;
}

static void configure_lvm(Volumes *v, const Nbd *disks, unsigned n_disks)
{
        char filter[256] = "";
        size_t n = 0;

        for (unsigned i = 0; i < n_disks && n < sizeof(filter); i++)
                n += (size_t)snprintf(filter + n, sizeof(filter) - n, "\"a|^%s(p[0-9]+)?$|\",",
                                      disks[i].device);
        (void)snprintf(v->lvm_config, sizeof(v->lvm_config),
                       "devices{filter=[%s\"r|.*|\"] global_filter=[\"a|.*|\"] use_devicesfile=0 "
                       "obtain_device_list_from_udev=0} backup{backup=0 archive=0}",
                       filter);
}

/* One column of a report, a line each. */
static int lvm_list(Volumes *v, Target *t, const char *report, const char *column, const char *group,
                    char **ret)
{
        const char *argv[] = { "lvm", report, "--config", v->lvm_config, "--noheadings",
                               "-o",  column, group,      NULL };

        return command_run(t, argv, ret);
}

static int change_group(Volumes *v, Target *t, const char *group, const char *how)
{
        const char *argv[] = { "lvm", "vgchange", "--config", v->lvm_config, "-q", how, group, NULL };

        return command_run(t, argv, NULL);
}

static char *trim(char *line)
{
        line += strspn(line, " ");
        line[strcspn(line, " ")] = '\0';
        return line;
}

static int add_group(Volumes *v, Target *t, const char *group)
{
        _cleanup_free_ char *paths = NULL;
        int r = 0;

        if (v->n_groups == GROUPS_MAX)
                return target_fail(t, -E2BIG, "there are more than %u volume groups in it", GROUPS_MAX);
        (void)snprintf(v->groups[v->n_groups++], sizeof(v->groups[0]), "%s", group);
        r = change_group(v, t, group, "-ay");
        if (r == 0)
                r = lvm_list(v, t, "lvs", "lv_dm_path", group, &paths);
        for (char *rest = paths, *line; r == 0 && (line = strsep(&rest, "\n"));) {
                line = trim(line);
                /* Inactive and internal ones have no device. */
                if (line[0] == '/' && access(line, F_OK) == 0)
                        r = add(v, t, line, 0, 0);
        }
        return r;
}

static int add_groups(Volumes *v, Target *t)
{
        _cleanup_free_ char *names = NULL;
        bool is_needed = false;

        for (unsigned i = 0; i < v->n; i++)
                is_needed |= str_eq(v->volumes[i].type, LVM_MEMBER);
        if (!is_needed)
                return 0;
        int r = lvm_list(v, t, "vgs", "vg_name", NULL, &names);
        if (r == -ENOENT)
                return target_fail(t, r, "it needs lvm2, which is not installed on this host");
        for (char *rest = names, *line; r == 0 && (line = strsep(&rest, "\n"));) {
                line = trim(line);
                if (line[0])
                        r = add_group(v, t, line);
        }
        return r;
}

int volumes_find(Volumes *v, Target *t, const Nbd *disks, unsigned n_disks)
{
        int r = 0;

        configure_lvm(v, disks, n_disks);
        for (unsigned i = 0; r == 0 && i < n_disks; i++)
                r = add_disk(v, t, &disks[i], i);
        return r == 0 ? add_groups(v, t) : r;
}

/* udev looks at a volume after each change: for moments it is open. */
int volumes_done(Volumes *v, Target *t)
{
        uint64_t deadline = fs_now_usec() + BUSY_USEC;
        int r = 0;

        while (v->n_groups > 0) {
                r = change_group(v, t, v->groups[v->n_groups - 1], "-an");
                if (r == 0)
                        v->n_groups--;
                else if (fs_now_usec() >= deadline)
                        return r;
                else
                        (void)usleep(STEP_USEC);
        }
        return 0;
}

static bool has_name(const Volume *v, const char *source)
{
        char name[128], *end;

        if (str_has_prefix(source, "UUID="))
                return str_eq(v->uuid, source + strlen("UUID="));
        if (str_has_prefix(source, "LABEL="))
                return str_eq(v->label, source + strlen("LABEL="));
        if (str_has_prefix(source, "PARTUUID="))
                return str_eq(v->part_uuid, source + strlen("PARTUUID="));
        if (str_eq(v->device, source))
                return true;
        /* /dev/GROUP/NAME is /dev/mapper/GROUP-NAME, where a dash in a name is doubled. */
        if (str_has_prefix(v->device, "/dev/mapper/") && str_has_prefix(source, "/dev/")) {
                size_t n = (size_t)snprintf(name, sizeof(name), "/dev/mapper/");
                for (const char *s = source + strlen("/dev/"); *s && n < sizeof(name) - 2; s++) {
                        name[n++] = *s == '/' ? '-' : *s;
                        if (*s == '-')
                                name[n++] = '-';
                }
                name[n] = '\0';
                return str_eq(v->device, name);
        }
        /* /dev/vda2: disks are lettered in their order, whatever the bus is. */
        if (!str_has_prefix(source, "/dev/") || strlen(source) < strlen("/dev/vda1"))
                return false;
        return source[7] == (char)('a' + v->disk) && v->partition > 0 &&
               strtoul(source + 8, &end, 10) == v->partition && *end == '\0';
}

const Volume *volumes_lookup(const Volumes *v, const char *source)
{
        for (unsigned i = 0; i < v->n; i++)
                if (has_name(&v->volumes[i], source))
                        return &v->volumes[i];
        return NULL;
}
