/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Groups first, then gid, then uid: each step needs the rights that the next one gives up. The process stays
 * undumpable behind it, so that the caller's other processes cannot take its place.
 */

#include "worker/identity.h"

#include <grp.h>
#include <limits.h>
#include <sys/prctl.h>

#include "base/base.h"
#include "proto/message.h"

static bool get_id(json_object *o, const char *key, unsigned *ret)
{
        int64_t id = message_int(o, key, -1);

        if (id < 0 || id >= UINT32_MAX)
                return false;
        *ret = (unsigned)id;
        return true;
}

static int take_groups(json_object *groups)
{
        gid_t list[NGROUPS_MAX];
        size_t n = json_object_array_length(groups);

        if (n > ELEMENTSOF(list))
                return -E2BIG;
        for (size_t i = 0; i < n; i++) {
                json_object *o = json_object_array_get_idx(groups, i);
                int64_t id = json_object_is_type(o, json_type_int) ? json_object_get_int64(o) : -1;

                if (id < 0 || id >= UINT32_MAX)
                        return -EINVAL;
                list[i] = (gid_t)id;
        }
        return setgroups(n, list) < 0 ? -errno : 0;
}

int identity_take(json_object *order)
{
        json_object *groups = message_obj(order, "groups");
        unsigned uid, gid;
        int r;

        if (groups) {
                if (!json_object_is_type(groups, json_type_array))
                        return -EINVAL;
                r = take_groups(groups);
                if (r < 0)
                        return r;
        }
        if (message_obj(order, "gid")) {
                if (!get_id(order, "gid", &gid))
                        return -EINVAL;
                if (setresgid(gid, gid, gid) < 0)
                        return -errno;
        }
        if (message_obj(order, "uid")) {
                if (!get_id(order, "uid", &uid))
                        return -EINVAL;
                if (setresuid(uid, uid, uid) < 0)
                        return -errno;
                if (uid != 0 && setresuid((uid_t)-1, 0, (uid_t)-1) >= 0)
                        return -EPERM; /* the way back must be closed */
        }
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return -errno;
        return 0;
}
