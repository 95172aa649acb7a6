/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A domain's XML, read and edited. What is called a channel's socket is an absolute path that fits an
 * address; what was edited once needs no further editing.
 */

#include "fuzz.h"

#include <sys/un.h>

#include "hostd/domain-xml.h"

#define CONTROL "org.vmferry.ctl.0"
#define DATA "org.vmferry.data.0"

static void check_socket(const char *path)
{
        if (path && (*path != '/' || strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)))
                abort();
}

static void edit(const char *xml, bool enable)
{
        DomainXmlEdit once = {}, twice = {};
        int r = domain_xml_edit(xml, enable, CONTROL, DATA, &once);

        if (r > 0) {
                if (!once.xml || !once.devices || !once.devices[0] || !*once.diff)
                        abort();
                r = domain_xml_edit(once.xml, enable, CONTROL, DATA, &twice);
                /* several channels of one name leave one by one */
                if (r < 0 || (r > 0 && enable))
                        abort();
                domain_xml_edit_done(&twice);
        } else if (r == 0 && (once.xml || *once.diff)) {
                abort();
        }
        if (r >= 0)
                domain_xml_edit_done(&once);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
        char *xml = strndup((const char *)data, n);
        Domain *d = domain_new();

        domain_xml_read_channels(d, xml, CONTROL, DATA);
        check_socket(d->control_socket);
        check_socket(d->data_socket);
        if (!d->channel_reason && (!d->control_socket || !d->data_socket))
                abort();
        domain_free(d);
        edit(xml, true);
        edit(xml, false);
        free(xml);
        return 0;
}
