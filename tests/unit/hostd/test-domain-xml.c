/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "hostd/domain-xml.h"

#include <glib.h>

#include "../suite.h"

#define CTL "org.vmferry.ctl.0"
#define DATA "org.vmferry.data.0"
#define DOMAIN_OF(devices)                                                                                  \
        "<domain type='qemu' id='3'>\n  <name>web01</name>\n  <devices>\n" devices                          \
        "  </devices>\n</domain>\n"
#define CHANNEL(name, path)                                                                                 \
        "    <channel type='unix'>\n      <source mode='bind' path='" path                                  \
        "'/>\n      <target type='virtio' name='" name                                                      \
        "' state='connected'/>\n      <alias name='channel-" name "'/>\n    </channel>\n"
#define CONTROLLER "    <controller type='virtio-serial' index='0'/>\n"

static Domain *read_domain(const char *xml)
{
        Domain *d = domain_new();

        domain_xml_read_channels(d, xml, CTL, DATA);
        return d;
}

START_TEST(test_both)
{
        _cleanup_(domain_freep) Domain *d = read_domain(DOMAIN_OF(CHANNEL(
                "org.qemu.guest_agent.0", "/a") CHANNEL(DATA, "/run/d") CHANNEL(CTL, "/run/c&amp;1")));

        ck_assert_str_eq(d->control_socket, "/run/c&1");
        ck_assert_str_eq(d->data_socket, "/run/d");
        ck_assert_str_eq(d->control_alias, "channel-" CTL);
        ck_assert_str_eq(d->data_alias, "channel-" DATA);
        ck_assert_ptr_null(d->channel_reason);
}
END_TEST

/* Each is unusable, and the reason says what a person can do about it. */
START_TEST(test_reasons)
{
        static const struct {
                const char *xml, *reason;
        } table[] = {
                { DOMAIN_OF(""), "vmferry enable" },
                { DOMAIN_OF(CHANNEL(CTL, "/run/c")), "no channel \"" DATA "\"" },
                { DOMAIN_OF(CHANNEL(DATA, "/run/d")), "no channel \"" CTL "\"" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel type='unix'><source mode='connect' path='/c'/>"
                                                "<target type='virtio' name='" CTL "'/></channel>"),
                  "mode 'connect'" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel type='pty'><source path='/dev/pts/1'/>"
                                                "<target type='virtio' name='" CTL "'/></channel>"),
                  "type \"pty\"" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel type='unix'><source mode='bind' path='/c'/>"
                                                "<target type='xen' name='" CTL "'/></channel>"),
                  "not of type virtio" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel type='unix'><source mode='bind'/>"
                                                "<target type='virtio' name='" CTL "'/></channel>"),
                  "without the path" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel type='unix'><source mode='bind' path='relative'/>"
                                                "<target type='virtio' name='" CTL "'/></channel>"),
                  "without the path" },
                { DOMAIN_OF(CHANNEL(DATA, "/same") CHANNEL(CTL, "/same")), "each needs its own" },
                { DOMAIN_OF(CHANNEL(DATA, "/d") "<channel/><channel><target/></channel>"), "no channel" },
                { "<domain", "cannot be read" },
                { "", "cannot be read" },
                { "<network/>", "cannot be read" },
                { "<!DOCTYPE domain [<!ENTITY e SYSTEM "
                  "'file:///etc/passwd'>]><domain><devices>&e;</devices></domain>",
                  "cannot be read" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(domain_freep) Domain *d = read_domain(table[i].xml);

                ck_assert_msg(!d->control_socket || !d->data_socket, "%zu", i);
                ck_assert_ptr_nonnull(d->channel_reason);
                ck_assert_msg(strstr(d->channel_reason, table[i].reason), "%zu: %s", i, d->channel_reason);
        }
}
END_TEST

START_TEST(test_path_limit)
{
        for (size_t n = 107; n <= 108; n++) {
                g_autofree char *path = g_strnfill(n, 'x'), *xml = NULL;
                _cleanup_(domain_freep) Domain *d = NULL;

                path[0] = '/';
                xml = g_strdup_printf(DOMAIN_OF("%s<channel type='unix'><source mode='bind' path='%s'/>"
                                                "<target type='virtio' name='" CTL "'/></channel>"),
                                      CHANNEL(DATA, "/d"), path);
                d = read_domain(xml);
                ck_assert_int_eq(d->control_socket != NULL, n == 107);
        }
}
END_TEST

/* What was read before is not left standing beside a reason. */
START_TEST(test_read_again)
{
        _cleanup_(domain_freep) Domain *d = read_domain(DOMAIN_OF(CHANNEL(CTL, "/c") CHANNEL(DATA, "/d")));

        domain_xml_read_channels(d, DOMAIN_OF(""), CTL, DATA);
        ck_assert_ptr_null(d->control_socket);
        ck_assert_ptr_null(d->data_alias);
        ck_assert_ptr_nonnull(d->channel_reason);
        domain_xml_read_channels(d, DOMAIN_OF(CHANNEL("vm.ctl", "/c") CHANNEL("vm.data", "/d")), "vm.ctl",
                                 "vm.data");
        ck_assert_str_eq(d->control_socket, "/c");
        ck_assert_ptr_null(d->channel_reason);
}
END_TEST

START_TEST(test_enable)
{
        DomainXmlEdit e = {}, again = {};

        ck_assert_int_eq(domain_xml_edit(DOMAIN_OF(CHANNEL(DATA, "/d")), true, CTL, DATA, &e), 1);
        ck_assert(e.needs_controller);
        ck_assert_int_eq(g_strv_length(e.devices), 1);
        ck_assert_ptr_nonnull(strstr(e.devices[0], "name='" CTL "'"));
        ck_assert_ptr_nonnull(strstr(e.xml, "virtio-serial"));
        ck_assert_ptr_nonnull(strstr(e.diff, "+      <target type='virtio' name='" CTL "'/>"));
        ck_assert_ptr_null(strstr(e.diff, DATA));
        /* Twice changes nothing. */
        ck_assert_int_eq(domain_xml_edit(e.xml, true, CTL, DATA, &again), 0);
        ck_assert_str_eq(again.diff, "");
        domain_xml_edit_done(&e);
        domain_xml_edit_done(&again);

        ck_assert_int_eq(domain_xml_edit(DOMAIN_OF(CONTROLLER), true, "a<b", "c'd", &e), 1);
        ck_assert(!e.needs_controller);
        ck_assert_int_eq(g_strv_length(e.devices), 2);
        ck_assert_int_eq(domain_xml_edit(e.xml, true, "a<b", "c'd", &again), 0);
        domain_xml_edit_done(&e);
        domain_xml_edit_done(&again);
}
END_TEST

START_TEST(test_disable)
{
        DomainXmlEdit e = {}, again = {};
        _cleanup_(domain_freep) Domain *d = NULL;

        ck_assert_int_eq(domain_xml_edit(DOMAIN_OF(CONTROLLER CHANNEL("org.qemu.guest_agent.0", "/a")
                                                           CHANNEL(CTL, "/c") CHANNEL(DATA, "/d")),
                                         false, CTL, DATA, &e),
                         1);
        ck_assert_int_eq(g_strv_length(e.devices), 2);
        ck_assert_ptr_nonnull(strstr(e.devices[0], "/c"));
        ck_assert_ptr_nonnull(strstr(e.diff, "-"));
        ck_assert_ptr_nonnull(strstr(e.xml, "guest_agent"));
        ck_assert_ptr_nonnull(strstr(e.xml, "virtio-serial"));
        d = read_domain(e.xml);
        ck_assert_ptr_null(d->control_socket);
        ck_assert_int_eq(domain_xml_edit(e.xml, false, CTL, DATA, &again), 0);
        domain_xml_edit_done(&e);
        domain_xml_edit_done(&again);
}
END_TEST

START_TEST(test_edit_refused)
{
        DomainXmlEdit e = {};

        ck_assert_int_eq(domain_xml_edit("<domain/>", true, CTL, DATA, &e), -EBADMSG);
        ck_assert_int_eq(domain_xml_edit("junk", true, CTL, DATA, &e), -EBADMSG);
        ck_assert_int_eq(domain_xml_edit(DOMAIN_OF("<channel type='pty'><target type='virtio' name='" CTL
                                                   "'/></channel>"),
                                         true, CTL, DATA, &e),
                         -EEXIST);
        domain_xml_edit_done(&e);
        ck_assert_int_eq(domain_xml_edit(DOMAIN_OF("<channel type='unix'><source mode='connect' path='/c'/>"
                                                   "<target type='virtio' name='" CTL "'/></channel>"),
                                         true, CTL, DATA, &e),
                         -EEXIST);
        domain_xml_edit_done(&e);
}
END_TEST

START_TEST(test_size_limit)
{
        g_autofree char *fill = g_strnfill(DOMAIN_XML_MAX, ' ');
        g_autofree char *xml = g_strconcat("<domain><devices/></domain>", fill, NULL);
        DomainXmlEdit e = {};

        ck_assert_int_eq(domain_xml_edit(xml, true, CTL, DATA, &e), -E2BIG);
        xml[DOMAIN_XML_MAX] = 0;
        ck_assert_int_eq(domain_xml_edit(xml, true, CTL, DATA, &e), 1);
        domain_xml_edit_done(&e);
}
END_TEST

SUITE("domain-xml",
      { test_both },
      { test_reasons },
      { test_path_limit },
      { test_read_again },
      { test_enable },
      { test_disable },
      { test_edit_refused },
      { test_size_limit })
