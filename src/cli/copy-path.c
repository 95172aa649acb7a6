/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/copy-path.h"

#include <stdio.h>

#include "base/base.h"

const char *copy_path_split(const char *s, char **ret_guest)
{
        const char *colon = strchr(s, ':'), *slash = strchr(s, '/');

        if (!colon || colon == s || (slash && slash < colon))
                return NULL;
        /* A domain's name may have colons, and a guest's path begins with a slash. */
        if (slash && slash[-1] == ':')
                colon = slash - 1;
        *ret_guest = strndup(s, (size_t)(colon - s));
        return colon + 1;
}

char *copy_path_clean(const char *s, bool *ret_contents)
{
        bool is_dot = true; /* of "/" too there is no name to go by */
        size_t n = 0;
        char *ret;

        ret = malloc(strlen(s) + 1);
        if (!ret)
                return NULL;
        if (s[0] != '/') {
                *ret_contents = false;
                return strcpy(ret, s);
        }
        ret[n++] = '/';
        for (;;) {
                size_t l;

                s += strspn(s, "/");
                l = strcspn(s, "/");
                if (l == 0)
                        break;
                is_dot = l == 1 && s[0] == '.';
                if (!is_dot) {
                        memcpy(ret + n, s, l);
                        n += l;
                        if (s[l] == '/')
                                ret[n++] = '/';
                }
                s += l;
        }
        ret[n] = 0;
        *ret_contents = is_dot;
        return ret;
}

char *copy_path_resolve(const char *s, bool *ret_contents)
{
        _cleanup_free_ char *copy = strdup(s), *resolved = NULL;
        bool trailing = s[0] && s[strlen(s) - 1] == '/', contents;
        char *slash, *ret = NULL;
        const char *last;

        if (!copy)
                return NULL;
        if (!s[0]) {
                errno = ENOENT;
                return NULL;
        }
        while (strlen(copy) > 1 && copy[strlen(copy) - 1] == '/')
                copy[strlen(copy) - 1] = 0;
        slash = strrchr(copy, '/');
        last = slash ? slash + 1 : copy;
        contents = strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || strcmp(copy, "/") == 0;
        if (contents) {
                resolved = realpath(copy, NULL);
                last = "";
                trailing = false;
        } else {
                if (slash)
                        *slash = 0;
                resolved = realpath(!slash ? "." : slash == copy ? "/" : copy, NULL);
        }
        if (!resolved)
                return NULL;
        if (asprintf(&ret, "%s/%s%s", strcmp(resolved, "/") == 0 ? "" : resolved, last,
                     trailing ? "/" : "") < 0)
                return NULL;
        *ret_contents = contents;
        return ret;
}

char *copy_path_name(const char *path)
{
        size_t end = strlen(path), start;

        while (end > 0 && path[end - 1] == '/')
                end--;
        for (start = end; start > 0 && path[start - 1] != '/';)
                start--;
        return strndup(path + start, end - start);
}
