/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "cli/copy-sides.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/copy-path.h"

/* With -H nothing here can tell. */
static bool is_directory(const CopySides *s, const char *path)
{
        struct stat st;

        return !s->host && stat(path, &st) >= 0 && S_ISDIR(st.st_mode);
}

bool copy_sides_is_standard(const CopySides *s, const char *path)
{
        static const char *const names[2][4] = {
                { "-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1" },
                { "-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0" },
        };

        for (size_t i = 0; i < ELEMENTSOF(names[0]); i++)
                if (strcmp(path, names[s->push][i]) == 0)
                        return true;
        return false;
}

bool copy_sides_is_ours(const CopySides *s, const char *path)
{
        struct stat st;

        return copy_sides_is_standard(s, path) || str_has_prefix(path, "/dev/fd/") ||
               str_has_prefix(path, "/proc/self/fd/") ||
               (!s->push && !s->host && stat(path, &st) >= 0 && S_ISCHR(st.st_mode));
}

/* A path of the guest's, with its guest. */
static int read_remote(const char *word, const char *path, char **ret, bool *ret_contents)
{
        if (!path[0])
                return cli_fail("%s: the path in the guest is missing: GUEST:/PATH", word);
        *ret = copy_path_clean(path, ret_contents);
        return *ret ? EXIT_DONE : cli_fail("no memory");
}

/* One side is GUEST:PATH, for all of it. */
static int read_sides(CopySides *s, char **words, size_t n, const char *to)
{
        _cleanup_free_ char *guest = NULL;
        const char *remote = copy_path_split(to, &guest);
        size_t n_standard = 0;

        s->push = remote != NULL;
        s->sources = calloc(n, sizeof(CopySource));
        if (!s->sources)
                return cli_fail("no memory");
        s->n_sources = n;
        for (size_t i = 0; i < n; i++) {
                _cleanup_free_ char *g = NULL;
                const char *p = copy_path_split(words[i], &g);

                if (s->push == (p != NULL))
                        return cli_usage("cp", "one side is GUEST:PATH, the other is here: '%s'", words[i]);
                s->sources[i].given = p ? p : words[i];
                if (!p)
                        continue;
                if (guest && strcmp(guest, g) != 0)
                        return cli_usage("cp", "all sources must be of the same guest");
                if (!guest)
                        guest = TAKE(g);
        }
        if (n > 1 && !s->push && copy_sides_is_ours(s, to))
                return cli_usage("cp", "'%s' takes one source", to);
        for (size_t i = 0; s->push && i < n; i++)
                if (copy_sides_is_standard(s, words[i]) && ++n_standard > 1)
                        return cli_usage("cp", "standard input is one source");
        s->guest = TAKE(guest);
        return EXIT_DONE;
}

/* The path of hostd's machine, which with -H is another one. */
static int read_local(CopySides *s, const char *word, char **ret, bool *ret_contents)
{
        if (!s->host) {
                *ret = copy_path_resolve(word, ret_contents);
                return *ret ? EXIT_DONE : -errno;
        }
        if (word[0] != '/')
                return cli_usage("cp", "'%s' is to be on %s: with -H a path begins with a slash", word,
                                 s->host);
        *ret = copy_path_clean(word, ret_contents);
        return *ret ? EXIT_DONE : -ENOMEM;
}

static int read_sources(CopySides *s, char **words)
{
        int r;

        for (size_t i = 0; i < s->n_sources; i++) {
                CopySource *source = &s->sources[i];

                if (!s->push &&
                    read_remote(words[i], source->given, &source->path, &source->is_contents) != EXIT_DONE)
                        return EXIT_FAILED;
                if (!s->push || copy_sides_is_ours(s, source->given))
                        continue;
                r = read_local(s, source->given, &source->path, &source->is_contents);
                if (r > 0)
                        return r;
                source->error = -r;
        }
        return EXIT_DONE;
}

static int read_destination(CopySides *s, const char *word)
{
        _cleanup_free_ char *guest = NULL, *path = NULL;
        bool is_contents;
        size_t l;
        int r;

        if (s->push) {
                if (read_remote(word, copy_path_split(word, &guest), &path, &is_contents) != EXIT_DONE)
                        return EXIT_FAILED;
        } else if (copy_sides_is_ours(s, word)) {
                path = strdup(word);
                if (!path)
                        return cli_fail("no memory");
        } else {
                r = read_local(s, word, &path, &is_contents);
                if (r > 0)
                        return r;
                if (r < 0)
                        return cli_fail("%s: %s", word[0] ? word : "''", strerror(-r));
                if (s->n_sources > 1 && !s->host && !is_directory(s, path))
                        return cli_fail("%s: of several sources, the destination is a directory that is "
                                        "there",
                                        word);
        }
        l = strlen(path);
        /* A directory's destination may end in a slash without being there. */
        if (s->n_sources == 1 && s->push && l > 1 && path[l - 1] == '/' && s->sources[0].path &&
            (s->sources[0].is_contents || is_directory(s, s->sources[0].path)))
                path[l - 1] = 0;
        if (s->n_sources > 1 && path[l - 1] != '/') {
                if (asprintf(&s->destination, "%s/", path) < 0)
                        return cli_fail("no memory");
        } else
                s->destination = TAKE(path);
        return EXIT_DONE;
}

typedef struct Place {
        char *name;
        CopySource *source;
} Place;

/* By name, and in the order of the words. */
static int compare_places(const void *a, const void *b)
{
        const Place *x = a, *y = b;
        int r = strcmp(x->name, y->name);

        return r != 0 ? r : (x->source > y->source) - (x->source < y->source);
}

/* In one directory, the second of a name would overwrite the first, or get in its way: they run at the same
 * time. */
static int find_twins(CopySides *s)
{
        Place *places = calloc(s->n_sources, sizeof(Place));
        size_t n = 0;
        bool failed = !places;

        for (size_t i = 0; !failed && i < s->n_sources; i++) {
                CopySource *source = &s->sources[i];

                if (!source->path || source->is_contents)
                        continue;
                places[n] = (Place){ copy_path_name(source->path), source };
                failed = !places[n].name;
                n += !failed;
        }
        if (n > 0)
                qsort(places, n, sizeof(Place), compare_places);
        for (size_t i = 1, first = 0; i < n; i++) {
                if (strcmp(places[i].name, places[first].name) == 0)
                        places[i].source->twin = places[first].source->given;
                else
                        first = i;
        }
        for (size_t i = 0; i < n; i++)
                free(places[i].name);
        free(places);
        return failed ? cli_fail("no memory") : EXIT_DONE;
}

int copy_sides_read(CopySides *s, char **words, size_t n, const char *to)
{
        int r = read_sides(s, words, n, to);

        if (r == EXIT_DONE)
                r = read_sources(s, words);
        if (r == EXIT_DONE)
                r = find_twins(s);
        return r == EXIT_DONE ? read_destination(s, to) : r;
}

void copy_sides_done(CopySides *s)
{
        for (size_t i = 0; i < s->n_sources; i++)
                free(s->sources[i].path);
        free(s->sources);
        free(s->destination);
        free(s->guest);
}
