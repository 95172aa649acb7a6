/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* org.vmferry1.Job and org.vmferry1.Process at /org/vmferry1/job/<id>. */

#include <glib.h>
#include <inttypes.h>

#include "hostd/bus-error.h"
#include "hostd/bus-objects.h"
#include "hostd/bus-options.h"
#include "hostd/exec.h"
#include "hostd/names.h"

#define SIGNAL_MAX 64

static int no_such_job(sd_bus_error *error)
{
        return sd_bus_error_set(error, SD_BUS_ERROR_UNKNOWN_OBJECT,
                                "The job is finished, and was forgotten since");
}

static int get_text(sd_bus *bus, const char *path, const char *iface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Job *j = bus_find_job_path(userdata, path);
        const char *text = "";

        if (!j)
                return no_such_job(error);
        if (str_eq(property, "Guest")) {
                _cleanup_free_ char *guest = bus_guest_path(j->guest_uuid);
                return sd_bus_message_append_basic(reply, 'o', guest);
        }
        if (str_eq(property, "Kind"))
                text = job_kind_to_string(j->kind);
        else if (str_eq(property, "GuestName"))
                text = j->guest_name;
        else if (str_eq(property, "State"))
                text = job_state_to_string(j->state);
        else if (str_eq(property, "Source"))
                text = j->source;
        else if (str_eq(property, "Destination"))
                text = j->destination;
        else if (str_eq(property, "Digest"))
                text = j->digest;
        else if (str_eq(property, "ErrorName"))
                text = bus_error_name(j->error);
        else if (str_eq(property, "ErrorMessage"))
                text = j->error_message;
        return sd_bus_message_append_basic(reply, 's', text);
}

static int get_number(sd_bus *bus, const char *path, const char *iface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Job *j = bus_find_job_path(userdata, path);
        uint64_t n = 0;

        if (!j)
                return no_such_job(error);
        if (str_eq(property, "Id"))
                return sd_bus_message_append_basic(reply, 'u', &j->id);
        if (str_eq(property, "OwnerUid"))
                return sd_bus_message_append(reply, "u", (uint32_t)j->caller->uid);
        if (str_eq(property, "BytesTotal"))
                n = j->bytes_total;
        else if (str_eq(property, "BytesDone"))
                n = j->bytes_done;
        else if (str_eq(property, "FilesTotal"))
                n = j->files_total;
        else if (str_eq(property, "FilesDone"))
                n = j->files_done;
        else if (str_eq(property, "Rate"))
                n = job_rate(j);
        else if (str_eq(property, "StartedAt"))
                n = j->started_at;
        else if (str_eq(property, "FinishedAt"))
                n = j->finished_at;
        return sd_bus_message_append_basic(reply, 't', &n);
}

static int append_reports(sd_bus_message *m, const Job *j, guint from)
{
        const GPtrArray *all = j->reports.all;
        int r = sd_bus_message_open_container(m, 'a', "(sss)");

        for (guint i = from; all && i < all->len && r >= 0; i++) {
                const JobReport *report = all->pdata[i];

                r = sd_bus_message_append(m, "(sss)", report->path, bus_error_name(report->error),
                                          report->text);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int get_reports(sd_bus *bus, const char *path, const char *iface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Job *j = bus_find_job_path(userdata, path);

        return j ? append_reports(reply, j, 0) : no_such_job(error);
}

static int get_argv(sd_bus *bus, const char *path, const char *iface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Job *j = bus_find_job_path(userdata, path);

        if (!j || !j->process)
                return no_such_job(error);
        return sd_bus_message_append_strv(reply, j->process->argv);
}

static int get_process(sd_bus *bus, const char *path, const char *iface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
        const Job *j = bus_find_job_path(userdata, path);

        if (!j || !j->process)
                return no_such_job(error);
        if (str_eq(property, "GuestPid"))
                return sd_bus_message_append_basic(reply, 'u', &j->process->guest_pid);
        return sd_bus_message_append_basic(reply, 'i',
                                           str_eq(property, "ExitSignal") ? &j->process->exit_signal
                                                                          : &j->process->exit_status);
}

/* A job is its owner's and root's; others need `manage`, or for looking `inspect`. */
static int authorize(Bus *b, sd_bus_message *m, const char *verb, Job **ret, sd_bus_error *error)
{
        PolkitDetails details = {};
        const Caller *caller;
        Job *j;
        int r;

        if ((r = bus_peers_find(b->peers, m, &caller, error)) <= 0)
                return r;
        j = bus_find_job_path(b, sd_bus_message_get_path(m));
        if (!j)
                return no_such_job(error);
        if (caller->uid != j->caller->uid) {
                details.domain_name = j->guest_name;
                details.domain_uuid = j->guest_uuid;
                if ((r = bus_authorize(b, m, verb, &details, NULL, error)) <= 0)
                        return r;
        }
        *ret = j;
        return 1;
}

static int method_cancel(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Bus *b = userdata;
        Job *j = NULL;
        int r = authorize(b, m, "manage", &j, error);

        if (r <= 0)
                return r < 0 ? r : 1;
        if ((r = sd_bus_reply_method_return(m, NULL)) <
            0) /* first, so that it precedes what follows from it */
                return r;
        jobs_cancel(b->jobs, j);
        return 1;
}

static int method_wait(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        uint64_t timeout_usec;
        Bus *b = userdata;
        Job *j = NULL;
        int r;

        if ((r = sd_bus_message_read(m, "t", &timeout_usec)) < 0)
                return r;
        if ((r = authorize(b, m, "manage", &j, error)) <= 0)
                return r < 0 ? r : 1;
        if (job_state_is_final(j->state) || timeout_usec == 0)
                return sd_bus_reply_method_return(m, "s", job_state_to_string(j->state));
        return bus_wait_new(b, m, NULL, j->id, timeout_usec);
}

static int process_error(const Job *j, int r, sd_bus_error *error)
{
        if (r == -ENOTCONN)
                return bus_error_set(error, WIRE_NOT_READY, "Guest %s is not ready", j->guest_name);
        if (r == -ENOTTY)
                return bus_error_set(error, WIRE_UNSUPPORTED, "%s in guest %s has no terminal",
                                     j->process->argv[0], j->guest_name);
        if (r == -ENOTSUP)
                return bus_error_set(error, WIRE_UNSUPPORTED,
                                     "%s in guest %s was not started detached: its output is not kept",
                                     j->process->argv[0], j->guest_name);
        return bus_error_set(error, WIRE_FAILED, "%s in guest %s: %s", j->process->argv[0], j->guest_name,
                             g_strerror(-r));
}

/* userdata is the call, referenced. */
static void on_answer(void *userdata, WireError error, const char *text)
{
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = userdata;

        if (error != WIRE_OK)
                bus_error_reply(call, error, text);
        else
                (void)sd_bus_reply_method_return(call, NULL);
}

static int answer_later(sd_bus_message *m, const Job *j, int r, sd_bus_error *error)
{
        if (r >= 0)
                return 1;
        sd_bus_message_unref(m);
        return process_error(j, r, error);
}

/* To look and to touch: what is not there any more is told as such. */
static int check_process(const Job *j, sd_bus_error *error)
{
        bool has_started = j->process && j->state != JOB_QUEUED;

        if (has_started && !job_state_is_final(j->state))
                return 0;
        return bus_error_set(error, WIRE_NOT_FOUND, "The process of job %" PRIu32 " in guest %s %s", j->id,
                             j->guest_name, has_started ? "has ended already" : "has not started yet");
}

static int method_kill(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        int32_t signal;
        Job *j;
        int r;

        if ((r = sd_bus_message_read(m, "i", &signal)) < 0)
                return r;
        if (signal <= 0 || signal > SIGNAL_MAX)
                return bus_error_set(error, WIRE_INVALID_ARGS, "There is no signal %" PRId32, signal);
        if ((r = authorize(userdata, m, "manage", &j, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = check_process(j, error)) < 0)
                return r;
        return answer_later(m, j, exec_kill(j, signal, on_answer, sd_bus_message_ref(m)), error);
}

static int method_resize(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        uint16_t rows, columns;
        Job *j;
        int r;

        if ((r = sd_bus_message_read(m, "qq", &rows, &columns)) < 0)
                return r;
        if ((r = authorize(userdata, m, "manage", &j, error)) <= 0)
                return r < 0 ? r : 1;
        if ((r = check_process(j, error)) < 0)
                return r;
        return answer_later(m, j, exec_resize(j, rows, columns, on_answer, sd_bus_message_ref(m)), error);
}

static int method_attach(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        static const BusOption none[] = { {} };
        int fds[2], r;
        Job *j;

        if ((r = bus_options_read(m, none, NULL, error)) < 0)
                return r;
        if ((r = authorize(userdata, m, "manage", &j, error)) <= 0)
                return r < 0 ? r : 1;
        if (!j->process)
                return no_such_job(error);
        if ((r = exec_attach(j, fds)) < 0)
                return process_error(j, r, error);
        r = sd_bus_reply_method_return(m, "hh", fds[0], fds[1]);
        fd_close(fds[0]);
        fd_close(fds[1]);
        return r;
}

#define CALLABLE SD_BUS_VTABLE_UNPRIVILEGED /* each asks polkit itself */
#define TOLD SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define FIXED SD_BUS_VTABLE_PROPERTY_CONST
#define ARGS(...) SD_BUS_ARGS(__VA_ARGS__)

const sd_bus_vtable bus_job_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_cancel, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Wait", ARGS("t", timeout_usec), SD_BUS_RESULT("s", state), method_wait,
                                CALLABLE),
        SD_BUS_PROPERTY("Id", "u", get_number, 0, FIXED),
        SD_BUS_PROPERTY("Kind", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("Guest", "o", get_text, 0, FIXED),
        SD_BUS_PROPERTY("GuestName", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("State", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Source", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("Destination", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("BytesTotal", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("BytesDone", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("FilesTotal", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("FilesDone", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("Rate", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("StartedAt", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("FinishedAt", "t", get_number, 0, TOLD),
        SD_BUS_PROPERTY("OwnerUid", "u", get_number, 0, FIXED),
        SD_BUS_PROPERTY("Digest", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("ErrorName", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("ErrorMessage", "s", get_text, 0, TOLD),
        SD_BUS_PROPERTY("Reports", "a(sss)", get_reports, 0, SD_BUS_VTABLE_PROPERTY_EXPLICIT),
        SD_BUS_SIGNAL_WITH_ARGS("Reported", ARGS("a(sss)", reports), 0),
        SD_BUS_SIGNAL_WITH_ARGS("Finished", ARGS("s", result, "s", error_name, "s", error_message), 0),
        SD_BUS_VTABLE_END,
};

const sd_bus_vtable bus_process_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Kill", ARGS("i", signal), SD_BUS_NO_RESULT, method_kill, CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Resize", ARGS("q", rows, "q", columns), SD_BUS_NO_RESULT, method_resize,
                                CALLABLE),
        SD_BUS_METHOD_WITH_ARGS("Attach", ARGS("a{sv}", options), SD_BUS_RESULT("h", stdout, "h", stderr),
                                method_attach, CALLABLE),
        SD_BUS_PROPERTY("Argv", "as", get_argv, 0, FIXED),
        SD_BUS_PROPERTY("GuestPid", "u", get_process, 0, TOLD),
        SD_BUS_PROPERTY("ExitStatus", "i", get_process, 0, TOLD),
        SD_BUS_PROPERTY("ExitSignal", "i", get_process, 0, TOLD),
        SD_BUS_VTABLE_END,
};

static void on_added(void *userdata, Job *j)
{
        _cleanup_free_ char *path = bus_job_path(j->id);
        Bus *b = userdata;

        (void)sd_bus_emit_object_added(b->bus, path);
        (void)sd_bus_emit_signal(b->bus, BUS_PATH, IFACE_MANAGER, "JobNew", "uo", j->id, path);
}

static void on_changed(void *userdata, Job *j, bool progress_only)
{
        _cleanup_free_ char *path = bus_job_path(j->id);
        Bus *b = userdata;

        if (progress_only) {
                (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_JOB, "BytesTotal", "BytesDone",
                                                     "FilesTotal", "FilesDone", "Rate", NULL);
                return;
        }
        if (j->process && j->process->exited)
                (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_PROCESS, "GuestPid", "ExitStatus",
                                                     "ExitSignal", NULL);
        else if (j->process && j->process->guest_pid > 0)
                (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_PROCESS, "GuestPid", NULL);
        (void)sd_bus_emit_properties_changed(b->bus, path, IFACE_JOB, "State", "BytesTotal", "BytesDone",
                                             "FilesTotal", "FilesDone", "Rate", "StartedAt", "FinishedAt",
                                             "Digest", "ErrorName", "ErrorMessage", NULL);
}

static void on_reported(void *userdata, Job *j, guint from)
{
        _cleanup_free_ char *path = bus_job_path(j->id);
        sd_bus_message *m = NULL;
        Bus *b = userdata;

        if (sd_bus_message_new_signal(b->bus, &m, path, IFACE_JOB, "Reported") >= 0 &&
            append_reports(m, j, from) >= 0)
                (void)sd_bus_send(b->bus, m, NULL);
        sd_bus_message_unref(m);
}

static void on_finished(void *userdata, Job *j)
{
        _cleanup_free_ char *path = bus_job_path(j->id);
        const char *state = job_state_to_string(j->state);
        Bus *b = userdata;

        (void)sd_bus_emit_signal(b->bus, path, IFACE_JOB, "Finished", "sss", state, bus_error_name(j->error),
                                 j->error_message);
        for (GList *l = b->waits.head, *next; l; l = next) {
                BusWait *w = l->data;
                next = l->next;
                if (w->guest_uuid || w->job != j->id)
                        continue;
                (void)sd_bus_reply_method_return(w->call, "s", state);
                bus_wait_free(w);
        }
}

static void on_removed(void *userdata, Job *j)
{
        _cleanup_free_ char *path = bus_job_path(j->id);
        Bus *b = userdata;

        bus_emit_removed(b, path, IFACE_JOB, j->process ? IFACE_PROCESS : NULL);
        (void)sd_bus_emit_signal(b->bus, BUS_PATH, IFACE_MANAGER, "JobRemoved", "uos", j->id, path,
                                 job_state_to_string(j->state));
}

static void on_count_changed(void *userdata)
{
        bus_manager_counts_changed(userdata);
}

const JobsOps bus_job_ops = {
        .added = on_added,
        .changed = on_changed,
        .reported = on_reported,
        .finished = on_finished,
        .removed = on_removed,
        .count_changed = on_count_changed,
};
