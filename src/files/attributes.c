/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Attributes from and to open files. The order matters: chown(2) clears set-id bits and capabilities, an ACL
 * changes the mode, and everything but utimensat(2) leaves the mtime of a file alone, which therefore only
 * comes last for clarity. Labels of security modules are the business of the machine that a file is on and
 * are not carried.
 */

#include "files/attributes.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include "base/base.h"
#include "files/owner.h"

#define XATTR_NAMES_MAX 65536u

void attributes_done(Attributes *a)
{
        free(a->buffer);
        *a = (Attributes){};
}

static bool is_carried(const char *name)
{
        return str_has_prefix(name, "user.") || str_has_prefix(name, "trusted.") ||
               str_eq(name, "security.capability") || str_eq(name, "system.posix_acl_access") ||
               str_eq(name, "system.posix_acl_default");
}

static int reserve(Attributes *a, size_t n)
{
        uint8_t *p;

        if (a->allocated - a->n_buffer >= n)
                return 0;
        /* Pointers into the buffer are made when it is complete. */
        p = realloc(a->buffer, a->n_buffer + n + 4096);
        if (!p)
                return -ENOMEM;
        a->buffer = p;
        a->allocated = a->n_buffer + n + 4096;
        return 0;
}

static int read_xattrs(Attributes *a, int fd, Entry *e)
{
        char names[XATTR_NAMES_MAX];
        size_t names_at[XATTRS_MAX], values_at[XATTRS_MAX];
        ssize_t n_names;

        a->n_buffer = 0;
        e->n_xattrs = 0;
        n_names = flistxattr(fd, names, sizeof names);
        if (n_names < 0)
                return errno == E2BIG || errno == ERANGE ? -E2BIG : 0;
        for (const char *name = names; name < names + n_names; name += strlen(name) + 1) {
                size_t n_name = strlen(name);
                ssize_t n;
                int r;

                if (!is_carried(name))
                        continue;
                n = fgetxattr(fd, name, NULL, 0);
                if (n < 0)
                        continue; /* gone again, or not for us */
                if (e->n_xattrs == XATTRS_MAX || n > (ssize_t)XATTR_VALUE_MAX)
                        return -E2BIG;
                r = reserve(a, n_name + 1 + (size_t)n + 1);
                if (r < 0)
                        return r;
                memcpy(a->buffer + a->n_buffer, name, n_name + 1);
                if (n > 0) {
                        n = fgetxattr(fd, name, a->buffer + a->n_buffer + n_name + 1, (size_t)n);
                        if (n < 0)
                                continue;
                }
                names_at[e->n_xattrs] = a->n_buffer;
                values_at[e->n_xattrs] = a->n_buffer + n_name + 1;
                a->xattrs[e->n_xattrs++].n_value = (uint32_t)n;
                a->n_buffer += n_name + 1 + (size_t)n;
        }
        for (size_t i = 0; i < e->n_xattrs; i++) {
                a->xattrs[i].name = (const char *)a->buffer + names_at[i];
                a->xattrs[i].value = a->buffer + values_at[i];
        }
        e->xattrs = a->xattrs;
        return 0;
}

int attributes_read(Attributes *a, int fd, const struct stat *st, bool preserve, Entry *e)
{
        e->mode = st->st_mode & (preserve ? 07777 : 01777);
        e->mtime_sec = st->st_mtim.tv_sec;
        e->mtime_nsec = (uint32_t)st->st_mtim.tv_nsec;
        if (!preserve)
                return 0;
        e->has_owner = true;
        e->uid = st->st_uid;
        e->gid = st->st_gid;
        e->user = owner_user_name(st->st_uid);
        e->group = owner_group_name(st->st_gid);
        return fd >= 0 ? read_xattrs(a, fd, e) : 0;
}

uint32_t attributes_mode(const AttributeRules *rules, const Entry *e)
{
        if (e->kind == ENTRY_FILE && rules->mode != UINT32_MAX)
                return rules->mode & 07777;
        return e->mode & (rules->preserve && e->has_owner ? 07777 : 01777);
}

/* Whose it is to be; -1: ours. */
static void find_owner(const AttributeRules *rules, const Entry *e, uid_t *ret_uid, gid_t *ret_gid)
{
        *ret_uid = rules->uid;
        *ret_gid = rules->gid;
        if (!rules->preserve || !e->has_owner)
                return;
        if (rules->uid == (uid_t)-1 && !(e->user && *e->user && owner_find_user(e->user, ret_uid)))
                *ret_uid = e->uid;
        if (rules->gid == (gid_t)-1 && !(e->group && *e->group && owner_find_group(e->group, ret_gid)))
                *ret_gid = e->gid;
}

/* 1: the owner is as it shall be; 0: it is not, which only the caller's own wish makes an error. */
static int set_owner(const AttributeRules *rules, int fd, const char *name, const Entry *e)
{
        bool asked = rules->uid != (uid_t)-1 || rules->gid != (gid_t)-1;
        int flags = name[0] ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
        uid_t uid;
        gid_t gid;

        find_owner(rules, e, &uid, &gid);
        if (uid == (uid_t)-1 && gid == (gid_t)-1)
                return 1;
        if (fchownat(fd, name, uid, gid, flags) >= 0)
                return 1;
        if (asked)
                return -errno;
        /* As cp(1) does it: who may not give files away may still give them to an own group. */
        IGNORE(fchownat(fd, name, (uid_t)-1, gid, flags));
        return 0;
}

static int set_xattrs(int fd, const Entry *e, bool acls, const char **ret_note)
{
        for (size_t i = 0; i < e->n_xattrs; i++) {
                const EntryXattr *x = &e->xattrs[i];

                if (!acls && str_has_prefix(x->name, "system."))
                        continue;
                if (!is_carried(x->name)) {
                        *ret_note = "An extended attribute is of a kind that is not carried";
                        continue;
                }
                if (fsetxattr(fd, x->name, x->value, x->n_value, 0) >= 0)
                        continue;
                switch (errno) {
                case EOPNOTSUPP:
                case EPERM:
                case EACCES:
                case EINVAL:
                case ERANGE:
                        *ret_note = "Extended attributes or ACLs could not be kept here";
                        break;
                default:
                        return -errno;
                }
        }
        return 0;
}

static void format_times(const Entry *e, struct timespec ret[2])
{
        ret[0] = (struct timespec){ .tv_nsec = UTIME_OMIT };
        ret[1] = (struct timespec){ .tv_sec = (time_t)e->mtime_sec, .tv_nsec = (long)e->mtime_nsec };
}

int attributes_set(const AttributeRules *rules, int fd, const Entry *e, uint32_t mode_now,
                   const char **ret_note)
{
        uint32_t mode = attributes_mode(rules, e);
        struct timespec times[2];
        int r;

        r = set_owner(rules, fd, "", e);
        if (r < 0)
                return r;
        if (r == 0)
                mode &= 01777; /* set-id to somebody else was never meant */
        if (rules->preserve && e->n_xattrs > 0) {
                r = set_xattrs(fd, e, true, ret_note);
                if (r < 0)
                        return r;
                mode_now = UINT32_MAX;
        }
        if (mode != mode_now && fchmod(fd, mode) < 0)
                return -errno;
        if (e->size == SIZE_UNKNOWN && e->kind == ENTRY_FILE)
                return 0; /* a stream has no time of its own */
        format_times(e, times);
        return futimens(fd, times) < 0 ? -errno : 0;
}

int attributes_set_xattrs(const AttributeRules *rules, int fd, const Entry *e, const char **ret_note)
{
        return rules->preserve ? set_xattrs(fd, e, false, ret_note) : 0;
}

int attributes_set_symlink(const AttributeRules *rules, int dir_fd, const char *name, const Entry *e)
{
        struct timespec times[2];
        int r;

        r = set_owner(rules, dir_fd, name, e);
        if (r < 0)
                return r;
        format_times(e, times);
        return utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW) < 0 && errno != EOPNOTSUPP ? -errno : 0;
}
