/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reassembly. A message of one frame, nearly all of them, passes through without being copied.
 */

#include "proto/fragments.h"

#include "base/base.h"

static void fragment_done(Fragment *p)
{
        free(p->data);
        *p = (Fragment){ 0 };
}

void fragments_done(Fragments *f)
{
        for (size_t i = 0; i < ELEMENTSOF(f->parts); i++)
                fragment_done(&f->parts[i]);
        free(f->whole);
        f->whole = NULL;
}

static Fragment *fragments_find(const Fragments *f, const FrameHeader *h)
{
        for (size_t i = 0; i < ELEMENTSOF(f->parts); i++) {
                const Fragment *p = &f->parts[i];

                if (p->is_used && p->type == h->type && p->stream == h->stream)
                        return (Fragment *)p;
        }
        return NULL;
}

bool fragments_has(const Fragments *f, const FrameHeader *h)
{
        return fragments_find(f, h);
}

static Fragment *fragments_add(Fragments *f, const FrameHeader *h)
{
        for (size_t i = 0; i < ELEMENTSOF(f->parts); i++) {
                Fragment *p = &f->parts[i];

                if (!p->is_used) {
                        *p = (Fragment){ .is_used = true, .type = h->type, .stream = h->stream };
                        return p;
                }
        }
        return NULL;
}

static int fragment_append(Fragment *p, const uint8_t *body, size_t n)
{
        if (n > MESSAGE_MAX - p->n)
                return -E2BIG;
        if (p->n + n > p->allocated) {
                size_t allocated = MIN(MAX(p->n + n, p->allocated * 2), (size_t)MESSAGE_MAX);
                uint8_t *data = realloc(p->data, allocated);

                if (!data)
                        return -ENOMEM;
                p->data = data;
                p->allocated = allocated;
        }
        if (n > 0)
                memcpy(p->data + p->n, body, n);
        p->n += n;
        return 0;
}

int fragments_feed(Fragments *f, const FrameHeader *h, const uint8_t *body, const uint8_t **ret_data,
                   size_t *ret_n)
{
        bool has_more = h->flags & FRAME_MORE;
        Fragment *p = fragments_find(f, h);
        int r;

        free(f->whole);
        f->whole = NULL;
        if (!p && !has_more) {
                *ret_data = body;
                *ret_n = h->length;
                return 1;
        }
        if (has_more && h->length == 0)
                return -EPROTO;
        if (!p)
                p = fragments_add(f, h);
        if (!p)
                return -EPROTO;
        r = fragment_append(p, body, h->length);
        if (r < 0)
                return r;
        if (has_more)
                return 0;
        f->whole = TAKE(p->data);
        *ret_data = f->whole;
        *ret_n = p->n;
        fragment_done(p);
        return 1;
}
