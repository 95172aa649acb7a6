/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * metrics: hostd's counters as OpenMetrics text, for node_exporter's textfile collector and its like. Names,
 * units and types follow the OpenMetrics 1.0 specification; label values are escaped as it says.
 */

#include <inttypes.h>
#include <stdio.h>

#include "cli/client.h"

static const struct Metric {
        const char *property, *name, *type, *unit, *help;
        double scale;
} metrics[] = {
        { "BytesSent", "vmferry_guest_sent_bytes", "counter", "bytes", "Bytes written to the guest's ports.",
          1 },
        { "BytesReceived", "vmferry_guest_received_bytes", "counter", "bytes",
          "Bytes read from the guest's ports.", 1 },
        { "Sessions", "vmferry_guest_sessions", "counter", NULL, "Handshakes that were completed.", 1 },
        { "Reconnects", "vmferry_guest_reconnects", "counter", NULL,
          "Connections that ended, for any reason.", 1 },
        { "Silences", "vmferry_guest_silences", "counter", NULL,
          "Times that a link which had worked was found silent, and was begun anew.", 1 },
        { "Resyncs", "vmferry_guest_resyncs", "counter", NULL, "Times that the byte stream lost its place.",
          1 },
        { "FramesDropped", "vmferry_guest_frames_dropped", "counter", NULL,
          "Frames of other sessions, or out of place.", 1 },
        { "RequestsRefused", "vmferry_guest_requests_refused", "counter", NULL,
          "Requests of the guest that were refused.", 1 },
        { "HeldBack", "vmferry_guest_held_back", "counter", NULL,
          "Times that the guest sent more than its share, and was read from more slowly.", 1 },
        { "QueueLength", "vmferry_guest_queue_length", "gauge", NULL, "Items that wait for the guest.", 1 },
        { "LastRoundTripUsec", "vmferry_guest_round_trip_seconds", "gauge", "seconds",
          "The last round trip to the guest's daemon.", 1e-6 },
};

static const char *const states[] = { "off",        "paused", "no-channel",   "busy",        "waiting",
                                      "connecting", "ready",  "unresponsive", "incompatible" };

static void print_label(const char *value)
{
        for (const char *c = value; *c; c++)
                if (*c == '\n')
                        fputs("\\n", stdout);
                else {
                        if (*c == '\\' || *c == '"')
                                putchar('\\');
                        putchar(*c);
                }
}

static void print_sample(json_object *guest, const char *name, const char *suffix, const char *state,
                         double value)
{
        printf("%s%s{guest=\"", name, suffix);
        print_label(json_str(guest, "Name"));
        printf("\",uuid=\"%s\"", json_str(guest, "Uuid"));
        if (state)
                printf(",state=\"%s\"", state);
        if (value == (double)(uint64_t)value)
                printf("} %" PRIu64 "\n", (uint64_t)value);
        else
                printf("} %.9g\n", value);
}

static void print_head(const char *name, const char *type, const char *unit, const char *help)
{
        printf("# TYPE %s %s\n", name, type);
        if (unit)
                printf("# UNIT %s %s\n", name, unit);
        printf("# HELP %s %s\n", name, help);
}

/* Of every guest object: each(guest, userdata). */
static void for_each_guest(json_object *objects, void (*each)(json_object *guest, const void *userdata),
                           const void *userdata)
{
        json_object_object_foreach(objects, path, interfaces)
        {
                json_object *g;

                (void)path;
                if (json_object_object_get_ex(interfaces, IFACE_GUEST, &g))
                        each(g, userdata);
        }
}

static void print_metric(json_object *guest, const void *userdata)
{
        const struct Metric *m = userdata;

        print_sample(guest, m->name, str_eq(m->type, "counter") ? "_total" : "", NULL,
                     (double)json_u64(guest, m->property) * m->scale);
}

static void print_state(json_object *guest, const void *userdata)
{
        for (size_t i = 0; i < ELEMENTSOF(states); i++)
                print_sample(guest, "vmferry_guest_state", "", states[i],
                             str_eq(states[i], json_str(guest, "State")));
}

int command_metrics(Cli *c, int argc, char **argv)
{
        static const struct {
                const char *property, *name, *help;
        } totals[] = {
                { "GuestCount", "vmferry_guests", "Domains that libvirt knows." },
                { "ReadyCount", "vmferry_guests_ready", "Guests that are ready." },
                { "JobCount", "vmferry_jobs", "Jobs that are not finished." },
        };
        _cleanup_json_ json_object *objects = NULL, *manager = NULL;

        if (argc > 1)
                return cli_usage("metrics", "takes no arguments");
        if (client_objects(c, &objects) < 0 ||
            client_properties(c, BUS_PATH, IFACE_MANAGER, false, &manager) < 0)
                return EXIT_FAILED;
        for (size_t i = 0; i < ELEMENTSOF(totals); i++) {
                print_head(totals[i].name, "gauge", NULL, totals[i].help);
                printf("%s %" PRIu64 "\n", totals[i].name, json_u64(manager, totals[i].property));
        }
        print_head("vmferry_libvirt_connected", "gauge", NULL, "Whether hostd is connected to libvirt.");
        printf("vmferry_libvirt_connected %d\n", str_eq(json_str(manager, "LibvirtState"), "connected"));
        /* No stateset: node_exporter reads Prometheus's older text format, which does not know that type. */
        print_head("vmferry_guest_state", "gauge", NULL, "1 for the state that the guest is in.");
        for_each_guest(objects, print_state, NULL);
        for (size_t i = 0; i < ELEMENTSOF(metrics); i++) {
                print_head(metrics[i].name, metrics[i].type, metrics[i].unit, metrics[i].help);
                for_each_guest(objects, print_metric, &metrics[i]);
        }
        puts("# EOF");
        return EXIT_DONE;
}
