/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Discovery on libvirt's test driver, whose domains stand in a file. */

#include "hostd/discovery.h"

#include <glib.h>
#include <stdio.h>

#include "base/fs.h"
#include "hostd/log.h"
#include "hostd/loop.h"

#include "../suite.h"

#define UUID_A "6af613b6-569c-5c22-9c37-2ed93f31d3af"

static Loop *loop;
static Discovery *discovery;
static GHashTable *domains;
static unsigned n_complete, n_done, n_gone;
static WireError done_error;
static char *done_diff, *node_path;

static void domain_destroy(void *d)
{
        domain_free(d);
}

static void on_domain(void *userdata, const Domain *d)
{
        g_hash_table_replace(domains, g_strdup(d->uuid), domain_copy(d));
}

static void on_hint(void *userdata, const char *uuid, DomainHint hint)
{
}

static void on_gone(void *userdata, const char *uuid)
{
        n_gone++;
        g_hash_table_remove(domains, uuid);
}

static void on_complete(void *userdata)
{
        n_complete++;
}

static void on_state(void *userdata, LibvirtState s)
{
}

static const DiscoveryOps ops = { .domain = on_domain,
                                  .hint = on_hint,
                                  .gone = on_gone,
                                  .complete = on_complete,
                                  .libvirt_state = on_state };

static void on_done(void *userdata, WireError error, const char *text, bool live, const char *diff)
{
        n_done++;
        done_error = error;
        ck_assert_ptr_nonnull(text);
        g_free(done_diff);
        done_diff = g_strdup(diff);
}

static void on_wake(void *userdata)
{
}

#define UNTIL(condition)                                                                                    \
        do {                                                                                                \
                uint64_t end_ = fs_now_usec() + 20 * USEC_PER_SEC;                                          \
                LoopTimer *t_ = loop_timer_new(loop, on_wake, NULL);                                        \
                while (!(condition)) {                                                                      \
                        ck_assert_msg(fs_now_usec() < end_, #condition);                                    \
                        loop_timer_set(t_, fs_now_usec() + 10 * USEC_PER_MSEC, 0);                          \
                        (void)g_main_context_iteration(NULL, TRUE);                                         \
                }                                                                                           \
                loop_timer_free(t_);                                                                        \
        } while (0)

static void write_node(unsigned n)
{
        g_autoptr(GString) s = g_string_new("<node>");

        for (unsigned i = 0; i < n; i++)
                g_string_append_printf(
                        s,
                        "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>"
                        "<name>guest%u</name><uuid>6af613b6-569c-5c22-9c37-%012x</uuid><memory>1024</memory>"
                        "<os><type>hvm</type></os><test:runstate>%d</test:runstate><devices>"
                        "<channel type='unix'><source mode='bind' path='/run/%u.ctl'/>"
                        "<target type='virtio' name='org.vmferry.ctl.0'/></channel>"
                        "<channel type='unix'><source mode='bind' path='/run/%u.data'/>"
                        "<target type='virtio' name='org.vmferry.data.0'/></channel>"
                        "</devices></domain>",
                        i, i,
                        i % 3 == 2   ? 5
                        : i % 3 == 1 ? 3
                                     : 1,
                        i, i);
        g_string_append(s, "</node>");
        ck_assert(g_file_set_contents(node_path, s->str, -1, NULL));
}

static void set_up(unsigned n, const char *uri)
{
        g_autofree char *own = NULL;

        log_set_max_level(-1);
        ck_assert_int_eq(loop_new(&loop), 0);
        node_path = g_strdup_printf("/tmp/vmferry-test-discovery-%d.xml", getpid());
        write_node(n);
        domains = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, domain_destroy);
        own = g_strdup_printf("test://%s", node_path);
        discovery = discovery_new(uri ? uri : own, "org.vmferry.ctl.0", "org.vmferry.data.0", &ops, NULL);
        ck_assert_int_eq(discovery_libvirt_state(discovery), LIBVIRT_CONNECTING);
        discovery_start(discovery);
}

static void tear_down(void)
{
        discovery_free(discovery);
        g_hash_table_unref(domains);
        unlink(node_path);
        g_free(node_path);
        g_free(done_diff);
        loop_free(loop);
}

static const Domain *domain_number(unsigned i)
{
        g_autofree char *uuid = g_strdup_printf("6af613b6-569c-5c22-9c37-%012x", i);

        return g_hash_table_lookup(domains, uuid);
}

START_TEST(test_list)
{
        set_up(200, NULL);
        UNTIL(n_complete == 1);
        ck_assert_int_eq(discovery_libvirt_state(discovery), LIBVIRT_CONNECTED);
        ck_assert_uint_eq(g_hash_table_size(domains), 200);
        ck_assert_int_eq(domain_number(0)->state, DOMAIN_RUNNING);
        ck_assert_str_eq(domain_number(0)->name, "guest0");
        ck_assert_str_eq(domain_number(0)->control_socket, "/run/0.ctl");
        ck_assert_int_ge(domain_number(0)->id, 0);
        ck_assert_int_eq(domain_number(1)->state, DOMAIN_PAUSED);
        ck_assert_int_eq(domain_number(2)->state, DOMAIN_OFF);
        ck_assert_int_eq(domain_number(2)->id, -1);
        ck_assert_ptr_null(domain_number(2)->control_socket);
        ck_assert_uint_eq(n_gone, 0);
        tear_down();
}
END_TEST

START_TEST(test_other_channels)
{
        set_up(1, NULL);
        UNTIL(n_complete == 1);
        discovery_set_channels(discovery, "vm.ctl", "vm.data");
        UNTIL(n_complete == 2);
        ck_assert_ptr_null(domain_number(0)->control_socket);
        ck_assert_ptr_nonnull(domain_number(0)->channel_reason);
        tear_down();
}
END_TEST

START_TEST(test_dry_run)
{
        set_up(3, NULL);
        UNTIL(n_complete == 1);
        /* There already: nothing to do. */
        discovery_enable_channels(discovery, domain_number(2)->uuid, true, true, on_done, NULL);
        UNTIL(n_done == 1);
        ck_assert_int_eq(done_error, WIRE_OK);
        ck_assert_str_eq(done_diff, "");
        discovery_enable_channels(discovery, domain_number(2)->uuid, false, true, on_done, NULL);
        UNTIL(n_done == 2);
        ck_assert_int_eq(done_error, WIRE_OK);
        ck_assert_ptr_nonnull(
                strstr(done_diff, "-      <target type=\"virtio\" name=\"org.vmferry.ctl.0\""));
        /* It was only shown. */
        discovery_enable_channels(discovery, domain_number(2)->uuid, true, true, on_done, NULL);
        UNTIL(n_done == 3);
        ck_assert_str_eq(done_diff, "");
        discovery_enable_channels(discovery, domain_number(2)->uuid, false, false, on_done, NULL);
        UNTIL(n_done == 4);
        ck_assert_int_eq(done_error, WIRE_OK);
        discovery_enable_channels(discovery, domain_number(2)->uuid, true, true, on_done, NULL);
        UNTIL(n_done == 5);
        ck_assert_ptr_nonnull(strstr(done_diff, "+      <target type='virtio' name='org.vmferry.ctl.0'/>"));
        tear_down();
}
END_TEST

START_TEST(test_no_such_domain)
{
        set_up(1, NULL);
        UNTIL(n_complete == 1);
        discovery_enable_channels(discovery, UUID_A, true, false, on_done, NULL);
        UNTIL(n_done == 1);
        ck_assert_int_eq(done_error, WIRE_NO_SUCH_GUEST);
        tear_down();
}
END_TEST

/* It goes on trying, and is there when libvirt is. */
START_TEST(test_unreachable)
{
        set_up(1, "test:///nonexistent/node.xml");
        discovery_enable_channels(discovery, UUID_A, true, false, on_done, NULL);
        UNTIL(n_done == 1);
        ck_assert_int_eq(done_error, WIRE_FAILED);
        ck_assert_int_eq(discovery_libvirt_state(discovery), LIBVIRT_CONNECTING);
        ck_assert_uint_eq(n_complete, 0);
        tear_down();
}
END_TEST

SUITE("discovery",
      { test_list },
      { test_other_channels },
      { test_dry_run },
      { test_no_such_domain },
      { test_unreachable })
