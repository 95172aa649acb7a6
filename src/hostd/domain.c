/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Domains as plain data: made, copied, freed, compared. */

#include <glib.h>

#include "base/base.h"
#include "hostd/domain.h"

Domain *domain_new(void)
{
        Domain *d = g_new0(Domain, 1);

        d->id = -1;
        return d;
}

Domain *domain_free(Domain *d)
{
        if (!d)
                return NULL;
        g_free(d->uuid);
        g_free(d->name);
        g_free(d->control_socket);
        g_free(d->data_socket);
        g_free(d->control_alias);
        g_free(d->data_alias);
        g_free(d->channel_reason);
        g_free(d);
        return NULL;
}

Domain *domain_copy(const Domain *d)
{
        Domain *c = domain_new();

        *c = (Domain){
                .uuid = g_strdup(d->uuid),
                .name = g_strdup(d->name),
                .id = d->id,
                .state = d->state,
                .control_socket = g_strdup(d->control_socket),
                .data_socket = g_strdup(d->data_socket),
                .control_alias = g_strdup(d->control_alias),
                .data_alias = g_strdup(d->data_alias),
                .channel_reason = g_strdup(d->channel_reason),
        };
        return c;
}

bool domain_equal(const Domain *a, const Domain *b)
{
        return str_eq(a->uuid, b->uuid) && str_eq(a->name, b->name) && a->id == b->id &&
               a->state == b->state && str_eq(a->control_socket, b->control_socket) &&
               str_eq(a->data_socket, b->data_socket) && str_eq(a->control_alias, b->control_alias) &&
               str_eq(a->data_alias, b->data_alias) && str_eq(a->channel_reason, b->channel_reason);
}
