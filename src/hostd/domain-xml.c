/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reading and editing domain XML (libvirt's formatdomain, "Channel"). Live XML has source/@path for every
 * channel of a Unix socket; inactive XML has it only if somebody gave it. Channels are found by
 * target/@name, by a walk over the few nodes that one XPath expression selects: names come from a file and
 * are never pasted into an expression.
 */

#include <glib.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xpath.h>
#include <sys/un.h>

#include "base/escape.h"
#include "hostd/domain-xml.h"

#define CHANNELS "/domain/devices/channel"
#define VIRTIO_SERIAL "/domain/devices/controller[@type='virtio-serial']"

static void doc_freep(xmlDoc **doc)
{
        if (*doc)
                xmlFreeDoc(*doc);
}

static void nodes_freep(xmlXPathObject **o)
{
        if (*o)
                xmlXPathFreeObject(*o);
}

static int doc_parse(const char *untrusted_xml, xmlDoc **ret)
{
        size_t n = strlen(untrusted_xml);
        _cleanup_(doc_freep) xmlDoc *doc = NULL;
        xmlNode *root;

        if (n > DOMAIN_XML_MAX)
                return -E2BIG;
        /* No XML_PARSE_NOENT: entities stay references; no XML_PARSE_HUGE: libxml2 keeps its own limits. */
        doc = xmlReadMemory(untrusted_xml, (int)n, "domain.xml", NULL,
                            XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
        if (!doc || doc->intSubset)
                return -EBADMSG;
        root = xmlDocGetRootElement(doc);
        if (!root || xmlStrcmp(root->name, BAD_CAST "domain") != 0)
                return -EBADMSG;
        *ret = TAKE(doc);
        return 0;
}

static xmlXPathObject *doc_select(xmlDoc *doc, const char *expression)
{
        xmlXPathContext *context = xmlXPathNewContext(doc);
        xmlXPathObject *o = NULL;

        if (context) {
                o = xmlXPathEvalExpression(BAD_CAST expression, context);
                xmlXPathFreeContext(context);
        }
        return o;
}

static int nodes_count(const xmlXPathObject *o)
{
        return o && o->nodesetval ? o->nodesetval->nodeNr : 0;
}

static xmlNode *node_child(xmlNode *node, const char *name)
{
        for (xmlNode *c = node->children; c; c = c->next)
                if (c->type == XML_ELEMENT_NODE && xmlStrcmp(c->name, BAD_CAST name) == 0)
                        return c;
        return NULL;
}

/* A copy that g_free() may free; NULL: no such attribute, or no such node. */
static char *node_attribute(xmlNode *node, const char *name)
{
        xmlChar *value = node ? xmlGetNoNsProp(node, BAD_CAST name) : NULL;
        char *copy = g_strdup((char *)value);

        xmlFree(value);
        return copy;
}

static bool node_has(xmlNode *node, const char *name, const char *value)
{
        _cleanup_free_ char *is = node_attribute(node, name);

        return str_eq(is, value);
}

static xmlNode *channel_find(const xmlXPathObject *channels, const char *name)
{
        for (int i = 0; i < nodes_count(channels); i++) {
                xmlNode *node = channels->nodesetval->nodeTab[i];

                if (node_has(node_child(node, "target"), "name", name))
                        return node;
        }
        return NULL;
}

/* A sentence's middle, "has no channel x"; NULL when the channel is good and *ret_path is its socket. */
static char *channel_judge(xmlNode *channel, const char *name, char **ret_path, char **ret_alias)
{
        xmlNode *source;
        _cleanup_free_ char *path = NULL, *shown = NULL, *type = NULL;

        if (!channel)
                return g_strdup_printf("has no channel \"%s\"", name);
        if (!node_has(node_child(channel, "target"), "type", "virtio"))
                return g_strdup_printf("has a channel \"%s\" whose target is not of type virtio", name);
        type = node_attribute(channel, "type");
        if (!str_eq(type, "unix")) {
                shown = escape_text(type ? type : "", type ? strlen(type) : 0, 40);
                return g_strdup_printf(
                        "has a channel \"%s\" of type \"%s\", where a Unix socket (type 'unix') is needed",
                        name, shown ? shown : "");
        }
        source = node_child(channel, "source");
        if (node_has(source, "mode", "connect"))
                return g_strdup_printf("has a channel \"%s\" in mode 'connect', where mode 'bind' is needed",
                                       name);
        path = node_attribute(source, "path");
        if (!path || *path != '/')
                return g_strdup_printf("has a channel \"%s\" without the path of its socket", name);
        if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
                return g_strdup_printf("has a channel \"%s\" whose socket's path is too long", name);
        *ret_path = TAKE(path);
        *ret_alias = node_attribute(node_child(channel, "alias"), "name");
        return NULL;
}

void domain_xml_read_channels(Domain *d, const char *untrusted_xml, const char *control_channel,
                              const char *data_channel)
{
        _cleanup_(doc_freep) xmlDoc *doc = NULL;
        _cleanup_(nodes_freep) xmlXPathObject *channels = NULL;
        _cleanup_free_ char *no_control = NULL, *no_data = NULL;
        xmlNode *control, *data;

        g_clear_pointer(&d->control_socket, g_free);
        g_clear_pointer(&d->data_socket, g_free);
        g_clear_pointer(&d->control_alias, g_free);
        g_clear_pointer(&d->data_alias, g_free);
        g_clear_pointer(&d->channel_reason, g_free);

        if (doc_parse(untrusted_xml, &doc) < 0) {
                d->channel_reason = g_strdup("its XML cannot be read");
                return;
        }
        channels = doc_select(doc, CHANNELS);
        control = channel_find(channels, control_channel);
        data = channel_find(channels, data_channel);
        if (!control && !data) {
                d->channel_reason = g_strdup("it has no vmferry channels; \"vmferry enable\" adds them");
                return;
        }
        no_control = channel_judge(control, control_channel, &d->control_socket, &d->control_alias);
        no_data = channel_judge(data, data_channel, &d->data_socket, &d->data_alias);
        if (no_control || no_data)
                d->channel_reason = g_strdup_printf(
                        "it %s%s%s%s", no_control ? no_control : no_data,
                        no_control && no_data ? " and " : "", no_control && no_data ? no_data : "",
                        !control || !data ? "; \"vmferry enable\" adds what is missing" : "");
        else if (str_eq(d->control_socket, d->data_socket)) {
                d->channel_reason = g_strdup("both its channels have the same socket; each needs its own");
                g_clear_pointer(&d->data_socket, g_free);
        }
}

static char *node_format(xmlDoc *doc, xmlNode *node)
{
        xmlBuffer *buffer = xmlBufferCreate();
        char *text = NULL;

        if (buffer && xmlNodeDump(buffer, doc, node, 0, 0) >= 0)
                text = g_strdup((const char *)xmlBufferContent(buffer));
        if (buffer)
                xmlBufferFree(buffer);
        return text;
}

static void diff_add(GString *diff, char sign, const char *text)
{
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

        for (char **l = lines; *l; l++)
                g_string_append_printf(diff, "%c%s%s\n", sign, l == lines ? "    " : "", *l);
}

/* Appends a device as the last one, on lines of its own. */
static int devices_append(xmlDoc *doc, xmlNode *devices, const char *text)
{
        xmlNode *node = NULL;
        xmlNode *last = devices->last;

        if (xmlParseInNodeContext(devices, text, (int)strlen(text), XML_PARSE_NONET, &node) != XML_ERR_OK ||
            !node)
                return -ENOMEM;
        /* The white space in front of </devices> stays the last. */
        if (last && last->type == XML_TEXT_NODE && xmlIsBlankNode(last)) {
                (void)xmlAddPrevSibling(last, xmlNewDocText(doc, BAD_CAST "\n    "));
                (void)xmlAddPrevSibling(last, node);
        } else
                (void)xmlAddChild(devices, node);
        return 0;
}

static char *channel_format(const char *name)
{
        g_autofree char *escaped = g_markup_escape_text(name, -1);

        return g_strdup_printf("<channel type='unix'>\n"
                               "      <source mode='bind'/>\n"
                               "      <target type='virtio' name='%s'/>\n"
                               "    </channel>",
                               escaped);
}

static void node_remove(xmlNode *node)
{
        xmlNode *before = node->prev;

        if (before && xmlIsBlankNode(before)) {
                xmlUnlinkNode(before);
                xmlFreeNode(before);
        }
        xmlUnlinkNode(node);
        xmlFreeNode(node);
}

/* The node set goes first: freeing it looks at its nodes. */
static void devices_remove(xmlXPathObject **channels, const char *const *names, size_t n)
{
        GPtrArray *found = g_ptr_array_new();

        for (size_t i = 0; i < n; i++) {
                xmlNode *channel = channel_find(*channels, names[i]);

                if (channel && !g_ptr_array_find(found, channel, NULL))
                        g_ptr_array_add(found, channel);
        }
        nodes_freep(channels);
        *channels = NULL;
        for (guint i = 0; i < found->len; i++)
                node_remove(found->pdata[i]);
        g_ptr_array_free(found, TRUE);
}

static int edit_add(xmlDoc *doc, const xmlXPathObject *channels, xmlNode *devices, const char *name,
                    GPtrArray *changed, GString *diff)
{
        xmlNode *channel = channel_find(channels, name);
        g_autofree char *text = NULL;
        int r;

        if (channel)
                return node_has(channel, "type", "unix") &&
                                       node_has(node_child(channel, "target"), "type", "virtio") &&
                                       !node_has(node_child(channel, "source"), "mode", "connect")
                               ? 0
                               : -EEXIST;
        text = channel_format(name);
        r = devices_append(doc, devices, text);
        if (r < 0)
                return r;
        diff_add(diff, '+', text);
        g_ptr_array_add(changed, TAKE(text));
        return 0;
}

static int edit_remove(xmlDoc *doc, const xmlXPathObject *channels, const char *name, GPtrArray *changed,
                       GString *diff)
{
        xmlNode *channel = channel_find(channels, name);
        char *text;

        if (!channel)
                return 0;
        text = node_format(doc, channel);
        if (!text)
                return -ENOMEM;
        diff_add(diff, '-', text);
        g_ptr_array_add(changed, text);
        return 1;
}

int domain_xml_edit(const char *untrusted_xml, bool enable, const char *control_channel,
                    const char *data_channel, DomainXmlEdit *ret)
{
        static const char controller[] = "<controller type='virtio-serial' index='0'/>";
        const char *names[] = { control_channel, data_channel };
        _cleanup_(doc_freep) xmlDoc *doc = NULL;
        _cleanup_(nodes_freep) xmlXPathObject *channels = NULL, *controllers = NULL, *devices = NULL;
        g_autoptr(GPtrArray) changed = g_ptr_array_new_with_free_func(g_free);
        GString *diff;
        xmlChar *text = NULL;
        int r, n = 0;

        r = doc_parse(untrusted_xml, &doc);
        if (r < 0)
                return r;
        devices = doc_select(doc, "/domain/devices");
        if (nodes_count(devices) < 1)
                return -EBADMSG;
        channels = doc_select(doc, CHANNELS);
        controllers = doc_select(doc, VIRTIO_SERIAL);
        *ret = (DomainXmlEdit){ .needs_controller = enable && nodes_count(controllers) == 0 };

        diff = g_string_new(NULL);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                r = enable ? edit_add(doc, channels, devices->nodesetval->nodeTab[0], names[i], changed,
                                      diff)
                           : edit_remove(doc, channels, names[i], changed, diff);
                if (r < 0) {
                        g_string_free(diff, TRUE);
                        return r;
                }
        }
        if (changed->len > 0 && ret->needs_controller) {
                r = devices_append(doc, devices->nodesetval->nodeTab[0], controller);
                if (r < 0) {
                        g_string_free(diff, TRUE);
                        return r;
                }
                diff_add(diff, '+', controller);
        }
        if (!enable)
                devices_remove(&channels, names, ELEMENTSOF(names));
        if (changed->len > 0) {
                xmlDocDumpMemory(doc, &text, &n);
                ret->xml = g_strdup((char *)text);
                xmlFree(text);
        }
        ret->diff = g_string_free(diff, FALSE);
        r = changed->len > 0;
        g_ptr_array_add(changed, NULL);
        ret->devices = (char **)g_ptr_array_steal(changed, NULL);
        return r;
}

void domain_xml_edit_done(DomainXmlEdit *e)
{
        g_free(e->xml);
        g_free(e->diff);
        g_strfreev(e->devices);
        *e = (DomainXmlEdit){};
}
