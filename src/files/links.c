/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A hash table of chains, keyed by device and inode. A full table is no error: a link then becomes a file of
 * its own.
 */

#include "files/links.h"

#include "base/base.h"

#define BUCKETS_MIN 256u
#define LINKS_MAX 1000000u

typedef struct Link {
        struct Link *next;
        dev_t dev;
        ino_t ino;
        nlink_t n_left;
        char path[];
} Link;

struct Links {
        Link **buckets;
        size_t n_buckets, n;
        Link *last; /* its final name was met; freed at the next call */
};

Links *links_new(void)
{
        Links *l = calloc(1, sizeof *l);

        if (!l)
                return NULL;
        l->buckets = calloc(BUCKETS_MIN, sizeof *l->buckets);
        if (!l->buckets)
                return links_free(l);
        l->n_buckets = BUCKETS_MIN;
        return l;
}

Links *links_free(Links *l)
{
        if (!l)
                return NULL;
        for (size_t i = 0; i < l->n_buckets; i++)
                while (l->buckets[i]) {
                        Link *k = l->buckets[i];

                        l->buckets[i] = k->next;
                        free(k);
                }
        free(l->last);
        free(l->buckets);
        free(l);
        return NULL;
}

static size_t bucket_of(dev_t dev, ino_t ino, size_t n_buckets)
{
        uint64_t h = ((uint64_t)ino ^ (uint64_t)dev << 40) * 0x9e3779b97f4a7c15ULL;

        return (size_t)(h >> 32) & (n_buckets - 1);
}

static void grow(Links *l)
{
        size_t n = l->n_buckets * 4;
        Link **buckets = calloc(n, sizeof *buckets);

        if (!buckets)
                return; /* longer chains will do */
        for (size_t i = 0; i < l->n_buckets; i++)
                while (l->buckets[i]) {
                        Link *k = l->buckets[i], **b = &buckets[bucket_of(k->dev, k->ino, n)];

                        l->buckets[i] = k->next;
                        k->next = *b;
                        *b = k;
                }
        free(l->buckets);
        l->buckets = buckets;
        l->n_buckets = n;
}

const char *links_meet(Links *l, const struct stat *st, const char *path)
{
        Link **b = &l->buckets[bucket_of(st->st_dev, st->st_ino, l->n_buckets)], *k;
        size_t n = strlen(path) + 1;

        free(l->last);
        l->last = NULL;
        for (; *b; b = &(*b)->next) {
                if ((*b)->dev != st->st_dev || (*b)->ino != st->st_ino)
                        continue;
                k = *b;
                if (--k->n_left == 0) {
                        *b = k->next;
                        l->n--;
                        l->last = k;
                }
                return k->path;
        }
        if (l->n >= LINKS_MAX)
                return NULL;
        k = malloc(sizeof *k + n);
        if (!k)
                return NULL;
        *k = (Link){ .dev = st->st_dev, .ino = st->st_ino, .n_left = st->st_nlink - 1 };
        memcpy(k->path, path, n);
        if (++l->n > l->n_buckets)
                grow(l);
        b = &l->buckets[bucket_of(st->st_dev, st->st_ino, l->n_buckets)];
        k->next = *b;
        *b = k;
        return NULL;
}
