/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Channels added to or removed from one domain: in its definition, and in the running domain where libvirt
 * can. A virtio-serial controller cannot be plugged into a running domain
 * (qemuDomainAttachControllerDevice), so a domain that was started without one has the channels from its
 * next start on. Doing it twice changes nothing.
 */

#include "base/escape.h"
#include "hostd/domain-xml.h"
#include "hostd/virt-private.h"

typedef struct Change {
        virConnectPtr conn;
        virDomainPtr dom;
        const char *uuid;
        bool enable;
        const char *names[2];
} Change;

static VirtChannels result(WireError error, const char *format, ...) _printf_(2, 3);
static VirtChannels result(WireError error, const char *format, ...)
{
        VirtChannels r = { .error = error };
        va_list ap;

        va_start(ap, format);
        r.text = g_strdup_vprintf(format, ap);
        va_end(ap);
        return r;
}

static VirtChannels result_libvirt(const char *what, const char *shown)
{
        WireError error = virt_error();
        _cleanup_free_ char *text = virt_error_text();

        return result(error, "%s domain '%s' failed: %s", what, shown, text ? text : "no memory");
}

/* 1, 0 or -errno of domain_xml_edit(); -EIO: libvirt's error stands. */
static int change_plan(const Change *c, unsigned flags, const char *label, const char *shown,
                       DomainXmlEdit *ret, GString *diff)
{
        _cleanup_free_ char *xml = virDomainGetXMLDesc(c->dom, flags);
        int r;

        if (!xml)
                return -EIO;
        r = domain_xml_edit(xml, c->enable, c->names[0], c->names[1], ret);
        if (r > 0)
                g_string_append_printf(diff, "--- %s (%s)\n+++ %s (%s)\n%s", shown, label, shown, label,
                                       ret->diff);
        return r;
}

static VirtChannels plan_failed(const Change *c, int r, const char *shown)
{
        if (r == -EIO)
                return result_libvirt("Reading the XML of", shown);
        if (r == -EEXIST)
                return result(
                        WIRE_EXISTS,
                        "Domain '%s' has a channel named \"%s\" or \"%s\" that is no virtio channel with a "
                        "Unix socket in mode 'bind'; change it with \"virsh edit\"",
                        shown, c->names[0], c->names[1]);
        return result(WIRE_FAILED, "The XML of domain '%s' cannot be edited: %s", shown, strerror(-r));
}

static int change_live(const Change *c, const DomainXmlEdit *edit)
{
        for (char **device = edit->devices; *device; device++) {
                int r = c->enable ? virDomainAttachDeviceFlags(c->dom, *device, VIR_DOMAIN_AFFECT_LIVE)
                                  : virDomainDetachDeviceFlags(c->dom, *device, VIR_DOMAIN_AFFECT_LIVE);
                if (r < 0)
                        return -EIO;
        }
        return 0;
}

static VirtChannels change_apply(const Change *c, bool dry_run, const char *shown, DomainXmlEdit *config,
                                 DomainXmlEdit *live, GString *diff)
{
        bool active = virDomainIsActive(c->dom) == 1, persistent = virDomainIsPersistent(c->dom) == 1;
        bool change_config = false, plug = false, later = false;
        VirtChannels done;
        int r;

        if (persistent) {
                r = change_plan(c, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE, "definition", shown,
                                config, diff);
                if (r < 0)
                        return plan_failed(c, r, shown);
                change_config = r > 0;
        }
        if (active) {
                gsize before = diff->len;

                r = change_plan(c, 0, "running", shown, live, diff);
                if (r < 0)
                        return plan_failed(c, r, shown);
                later = r > 0 && live->needs_controller;
                plug = r > 0 && !later;
                if (later)
                        g_string_truncate(diff, before);
        }
        if (later && !persistent)
                return result(WIRE_UNSUPPORTED,
                              "Domain '%s' was started without a virtio-serial controller, libvirt cannot "
                              "add one while "
                              "it runs, and it has no definition that could be changed: start it with the "
                              "channels in "
                              "its XML",
                              shown);
        if (!dry_run) {
                if (change_config) {
                        _cleanup_(virt_domain_freep) virDomainPtr defined =
                                virDomainDefineXML(c->conn, config->xml);

                        if (!defined)
                                return result_libvirt("Changing the definition of", shown);
                }
                if (plug && change_live(c, live) < 0)
                        return result_libvirt(c->enable ? "Adding the channels to the running"
                                                        : "Removing the channels from the running",
                                              shown);
        }
        done = result(
                WIRE_OK, "%s",
                later ? "The domain runs without a virtio-serial controller, which cannot be added while it "
                        "runs: the channels will be there when it is started the next time"
                      : "");
        done.live = active && !later;
        return done;
}

VirtChannels virt_channels_apply(virConnectPtr conn, const char *uuid, bool enable, bool dry_run,
                                 const char *control_channel, const char *data_channel)
{
        _cleanup_(virt_domain_freep) virDomainPtr dom = NULL;
        _cleanup_free_ char *shown = NULL;
        DomainXmlEdit config = {}, live = {};
        VirtChannels done;
        const char *name;
        GString *diff;
        Change c;

        if (!conn)
                return result(WIRE_FAILED,
                              "libvirt is not connected; try again when LibvirtState is \"connected\"");
        dom = virDomainLookupByUUIDString(conn, uuid);
        if (!dom)
                return result_libvirt("Looking up", uuid);
        name = virDomainGetName(dom);
        shown = escape_text(name, strlen(name), 255);
        c = (Change){ .conn = conn,
                      .dom = dom,
                      .uuid = uuid,
                      .enable = enable,
                      .names = { control_channel, data_channel } };

        diff = g_string_new(NULL);
        done = change_apply(&c, dry_run, shown ? shown : uuid, &config, &live, diff);
        done.diff = g_string_free(diff, FALSE);
        domain_xml_edit_done(&config);
        domain_xml_edit_done(&live);
        return done;
}
