/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pure: text in, disks out. CD-ROMs and floppies hold no system that could be installed to.
 */

#include <libxml/parser.h>
#include <libxml/xpath.h>

#include "deploy/disks.h"

#define DISKS_XPATH                                                                                         \
        "/domain/devices/disk[not(@device) or @device='disk' or @device='lun'][not(readonly)][source]"
#define XML_MAX (8u * 1024 * 1024)

static void doc_free(xmlDocPtr *doc)
{
        if (*doc)
                xmlFreeDoc(*doc);
}
static void context_free(xmlXPathContextPtr *context)
{
        if (*context)
                xmlXPathFreeContext(*context);
}
static void object_free(xmlXPathObjectPtr *object)
{
        if (*object)
                xmlXPathFreeObject(*object);
}

static xmlNodePtr child_of(xmlNodePtr node, const char *name)
{
        for (xmlNodePtr c = node->children; c; c = c->next)
                if (c->type == XML_ELEMENT_NODE && str_eq((const char *)c->name, name))
                        return c;
        return NULL;
}

static char *attribute_of(xmlNodePtr node, const char *name)
{
        return node ? (char *)xmlGetProp(node, (const xmlChar *)name) : NULL;
}

static int add_disk(Disks *d, xmlNodePtr node)
{
        xmlNodePtr source = child_of(node, "source");
        _cleanup_free_ char *file = attribute_of(source, "file"), *device = attribute_of(source, "dev");

        if (child_of(node, "encryption") || child_of(source, "encryption"))
                return -EPERM;
        if (!file && !device) {
                d->n_remote++;
                return 0;
        }
        if (d->n == DISKS_MAX)
                return -E2BIG;
        d->disks[d->n++] = (Disk){ .path = file ? TAKE(file) : TAKE(device),
                                   .format = attribute_of(child_of(node, "driver"), "type") };
        return 0;
}

int disks_parse(Disks *d, const char *untrusted_xml)
{
        size_t n = strlen(untrusted_xml);
        int r = 0;

        if (n > XML_MAX)
                return -E2BIG;
        _cleanup_(doc_free) xmlDocPtr doc =
                xmlReadMemory(untrusted_xml, (int)n, "domain.xml", NULL,
                              XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
        _cleanup_(context_free) xmlXPathContextPtr context = doc ? xmlXPathNewContext(doc) : NULL;
        _cleanup_(object_free) xmlXPathObjectPtr found =
                context ? xmlXPathEval((const xmlChar *)DISKS_XPATH, context) : NULL;
        if (!found)
                return -EBADMSG;
        for (int i = 0; r == 0 && found->nodesetval && i < found->nodesetval->nodeNr; i++)
                r = add_disk(d, found->nodesetval->nodeTab[i]);
        return r;
}
