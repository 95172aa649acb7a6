/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's own complaints on stderr are silenced: they are told in our lines.
 */

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "deploy/domain.h"

struct Domain {
        virConnectPtr connection;
        virDomainPtr domain;
        char *why;
};

static void on_error(void *userdata, virErrorPtr error)
{
}

static const char *last_words(void)
{
        const virError *e = virGetLastError();

        return e && e->message ? e->message : "libvirt gave no reason";
}

int domain_open(const char *uri, const char *name, Domain **ret, char **ret_why)
{
        _cleanup_(domain_freep) Domain *d = calloc(1, sizeof(*d));

        if (!d)
                return -ENOMEM;
        virSetErrorFunc(NULL, on_error);
        d->connection = virConnectOpen(uri);
        if (!d->connection) {
                *ret_why = strdup(last_words());
                return -ENOTCONN;
        }
        d->domain = virDomainLookupByName(d->connection, name);
        if (!d->domain)
                d->domain = virDomainLookupByUUIDString(d->connection, name);
        if (!d->domain) {
                *ret_why = strdup("libvirt has no domain of this name");
                return -ENOENT;
        }
        *ret = TAKE(d);
        return 0;
}

Domain *domain_free(Domain *d)
{
        if (!d)
                return NULL;
        if (d->domain)
                (void)virDomainFree(d->domain);
        if (d->connection)
                (void)virConnectClose(d->connection);
        free(d->why);
        free(d);
        return NULL;
}

bool domain_is_active(Domain *d)
{
        return virDomainIsActive(d->domain) != 0;
}

bool domain_is_saved(Domain *d)
{
        return virDomainHasManagedSaveImage(d->domain, 0) == 1;
}

const char *domain_why(const Domain *d)
{
        return d->why ? d->why : "libvirt gave no reason";
}

char *domain_xml(Domain *d)
{
        return virDomainGetXMLDesc(d->domain, VIR_DOMAIN_XML_INACTIVE);
}

int domain_ask_agent(Domain *d, const char *command, unsigned timeout_seconds, char **ret_answer)
{
        *ret_answer = virDomainQemuAgentCommand(d->domain, command, (int)timeout_seconds, 0);
        if (*ret_answer)
                return 0;
        free(d->why);
        d->why = strdup(last_words());
        return -EIO;
}
