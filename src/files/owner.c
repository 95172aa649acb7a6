/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Look-ups in passwd(5) and group(5) by fgetpwent(3) and fgetgrent(3), which need no NSS modules.
 */

#include "files/owner.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>

#include "base/base.h"

typedef struct Known {
        bool valid;
        unsigned id;
        char name[256];
} Known;

static FILE *fclose_null(FILE *f)
{
        (void)fclose(f);
        return NULL;
}
DEFINE_CLEANUP(FILE *, fclose_null);

/* Looks for the name, or for the id where name is NULL. */
static bool find_user(const char *name, uid_t *uid, Known *known)
{
        _cleanup_(fclose_nullp) FILE *f = fopen("/etc/passwd", "re");
        const struct passwd *pw;

        while (f && (pw = fgetpwent(f))) {
                if (name ? !str_eq(pw->pw_name, name) : pw->pw_uid != *uid)
                        continue;
                *uid = pw->pw_uid;
                if (known)
                        (void)snprintf(known->name, sizeof known->name, "%s", pw->pw_name);
                return true;
        }
        return false;
}

static bool find_group(const char *name, gid_t *gid, Known *known)
{
        _cleanup_(fclose_nullp) FILE *f = fopen("/etc/group", "re");
        const struct group *gr;

        while (f && (gr = fgetgrent(f))) {
                if (name ? !str_eq(gr->gr_name, name) : gr->gr_gid != *gid)
                        continue;
                *gid = gr->gr_gid;
                if (known)
                        (void)snprintf(known->name, sizeof known->name, "%s", gr->gr_name);
                return true;
        }
        return false;
}

const char *owner_user_name(uid_t uid)
{
        static Known known;

        if (!known.valid || known.id != uid) {
                known = (Known){ .valid = true, .id = uid };
                (void)find_user(NULL, &uid, &known);
        }
        return known.name;
}

const char *owner_group_name(gid_t gid)
{
        static Known known;

        if (!known.valid || known.id != gid) {
                known = (Known){ .valid = true, .id = gid };
                (void)find_group(NULL, &gid, &known);
        }
        return known.name;
}

bool owner_find_user(const char *name, uid_t *ret)
{
        static Known known;
        static bool found;

        if (!known.valid || !str_eq(known.name, name)) {
                uid_t uid = (uid_t)-1;

                known = (Known){ .valid = strlen(name) < sizeof known.name };
                (void)snprintf(known.name, sizeof known.name, "%s", name);
                found = find_user(name, &uid, NULL);
                known.id = uid;
        }
        if (found)
                *ret = known.id;
        return found;
}

bool owner_find_group(const char *name, gid_t *ret)
{
        static Known known;
        static bool found;

        if (!known.valid || !str_eq(known.name, name)) {
                gid_t gid = (gid_t)-1;

                known = (Known){ .valid = strlen(name) < sizeof known.name };
                (void)snprintf(known.name, sizeof known.name, "%s", name);
                found = find_group(name, &gid, NULL);
                known.id = gid;
        }
        if (found)
                *ret = known.id;
        return found;
}

static bool parse_id(const char *s, unsigned *ret)
{
        uint64_t v = 0;

        if (!*s || strlen(s) > 10)
                return false;
        for (; *s; s++) {
                if (*s < '0' || *s > '9')
                        return false;
                v = v * 10 + (uint64_t)(*s - '0');
        }
        if (v >= UINT32_MAX) /* (uid_t) -1 means "leave it" */
                return false;
        *ret = (unsigned)v;
        return true;
}

int owner_parse(const char *text, uid_t *ret_uid, gid_t *ret_gid)
{
        const char *colon = strchr(text, ':');
        _cleanup_free_ char *user = colon ? strndup(text, (size_t)(colon - text)) : strdup(text);
        const char *group = colon ? colon + 1 : "";
        uid_t uid = (uid_t)-1;
        gid_t gid = (gid_t)-1;

        if (!user)
                return -ENOMEM;
        if (!*user && !*group)
                return -EINVAL;
        if (*user && !owner_find_user(user, &uid) && !parse_id(user, &uid))
                return -ENOENT;
        if (*group && !owner_find_group(group, &gid) && !parse_id(group, &gid))
                return -ENOENT;
        *ret_uid = uid;
        *ret_gid = gid;
        return 0;
}
