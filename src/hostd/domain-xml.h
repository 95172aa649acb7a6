/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What vmferry wants to know of a domain's XML, and what it wants changed in it. Pure: text in, text and
 * structs out; no network, no entities, bounded size. Any thread.
 */

#include "hostd/domain.h"

#define DOMAIN_XML_MAX (8u * 1024 * 1024) /* libxml2's own limit on one text is 10 million bytes */

/* Fills in sockets, aliases and channel_reason of `d` from the live XML; never fails: what cannot be used is
 * a reason. */
void domain_xml_read_channels(Domain *d, const char *untrusted_xml, const char *control_channel,
                              const char *data_channel);

typedef struct DomainXmlEdit {
        char *xml;             /* the whole domain, changed; for virDomainDefineXML(3) */
        char **devices;        /* each added or removed device by itself, NULL-terminated; for attaching and
                                  detaching */
        char *diff;            /* the change as lines with + and - */
        bool needs_controller; /* adding: there is no virtio-serial controller (the edited XML has one) */
} DomainXmlEdit;

/* Adds the missing channels, or removes those that are there. 1: changed, *ret is filled; 0: nothing to do,
 * ret->diff is ""; -EBADMSG: not the XML of a domain; -E2BIG: past DOMAIN_XML_MAX; -EEXIST: a channel of
 * that name exists which is no virtio channel of a Unix socket. */
int domain_xml_edit(const char *untrusted_xml, bool enable, const char *control_channel,
                    const char *data_channel, DomainXmlEdit *ret);
void domain_xml_edit_done(DomainXmlEdit *e);
