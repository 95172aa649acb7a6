/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The record parser, fed in pieces: the first byte says of what size. What it hands out lies within what it
 * was given or within itself, with every string ended.
 */

#include "fuzz.h"

#include "base/base.h"
#include "proto/entry.h"
#include "proto/name.h"

static void look(const Record *r)
{
        const Entry *e = &r->object;

        for (size_t i = 0; i < r->n_data; i++)
                if (*(volatile const uint8_t *)(r->data + i) == 0)
                        continue;
        for (size_t i = 0; i < r->n_blocks * 8; i++)
                if (*(volatile const uint8_t *)(r->blocks + i) == 0)
                        continue;
        if (strlen(r->text) > RECORD_BODY_MAX || strlen(r->path) > RECORD_BODY_MAX)
                abort();
        if (r->type != RECORD_ENTRY)
                return;
        if (e->path[0] && !name_is_tree_path(e->path, strlen(e->path)))
                abort();
        if (e->mode > 07777 || e->n_xattrs > XATTRS_MAX || strlen(e->user) > NAME_BYTES_MAX ||
            strlen(e->group) > NAME_BYTES_MAX)
                abort();
        for (size_t i = 0; i < e->n_xattrs; i++) {
                if (strlen(e->xattrs[i].name) > NAME_BYTES_MAX || e->xattrs[i].n_value > XATTR_VALUE_MAX)
                        abort();
                for (size_t k = 0; k < e->xattrs[i].n_value; k++)
                        if (*(volatile const uint8_t *)(e->xattrs[i].value + k) == 0)
                                continue;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        RecordParser *p = record_parser_new();
        size_t piece;

        if (!p || n < 1) {
                (void)record_parser_free(p);
                return 0;
        }
        piece = data[0] + 1u;
        data++, n--;
        while (n > 0) {
                size_t m = MIN(piece, n), taken;
                const char *why = NULL;
                Record r;
                int k = record_parser_next(p, data, m, &taken, &r, &why);

                if (taken > m || (k == 0 && taken != m) || (k < 0 && (!why || r.error == WIRE_OK)))
                        abort();
                if (k < 0)
                        break;
                if (k > 0)
                        look(&r);
                data += taken, n -= taken;
        }
        (void)record_parser_free(p);
        return 0;
}
