/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the commands share: the options before the command, the bus, and how a command ends. A command is a
 * function of its own argc and argv (argv[0] is its name) that returns the exit status of the contract.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <json-c/json.h>
#include <systemd/sd-bus.h>

#include "base/base.h"

#define BUS_NAME "org.vmferry1"
#define BUS_PATH "/org/vmferry1"
#define IFACE_MANAGER "org.vmferry1.Manager"
#define IFACE_GUEST "org.vmferry1.Guest"
#define IFACE_JOB "org.vmferry1.Job"
#define IFACE_PROCESS "org.vmferry1.Process"
#define BUS_ERROR_PREFIX "org.vmferry1.Error."

enum {
        EXIT_DONE = 0,
        EXIT_FAILED = 1,
        EXIT_USAGE = 2,
        EXIT_VMFERRY = 125,
        EXIT_CANNOT_EXECUTE = 126,
        EXIT_NOT_FOUND = 127
};

typedef struct Cli {
        sd_bus *bus;          /* opened by cli_bus() when first asked for */
        sd_bus_message *call; /* the one being made */
        bool user;
        bool json;
        const char *host; /* -H, or NULL */
} Cli;

typedef struct Command {
        const char *name;
        int (*run)(Cli *c, int argc, char **argv);
        const char *arguments, *summary; /* for --help */
} Command;

int command_list(Cli *c, int argc, char **argv);
int command_status(Cli *c, int argc, char **argv);
int command_wait(Cli *c, int argc, char **argv);
int command_ping(Cli *c, int argc, char **argv);
int command_send(Cli *c, int argc, char **argv);
int command_call(Cli *c, int argc, char **argv);
int command_monitor(Cli *c, int argc, char **argv);
int command_exec(Cli *c, int argc, char **argv);
int command_shell(Cli *c, int argc, char **argv);
int command_cp(Cli *c, int argc, char **argv);
int command_jobs(Cli *c, int argc, char **argv);
int command_cancel(Cli *c, int argc, char **argv);
int command_actions(Cli *c, int argc, char **argv);
int command_queue(Cli *c, int argc, char **argv);
int command_enable(Cli *c, int argc, char **argv);
int command_disable(Cli *c, int argc, char **argv);
int command_deploy(Cli *c, int argc, char **argv);
int command_adopt(Cli *c, int argc, char **argv);
int command_upgrade(Cli *c, int argc, char **argv);
int command_metrics(Cli *c, int argc, char **argv);

/* The reason, one line, on stderr; returns EXIT_FAILED. */
int cli_fail(const char *format, ...) _printf_(1, 2);
/* As it is but for controls, as \xNN: names are anybody's, and a line is to stay one. */
void cli_print_text(FILE *f, const char *text);
/* What was wrong with the words, and where to look; returns EXIT_USAGE. */
int cli_usage(const char *command, const char *format, ...) _printf_(2, 3);
/* Seconds, with a fraction, to microseconds. 0, -EINVAL. */
int cli_parse_seconds(const char *text, uint64_t *ret_usec);
/* The rest of a descriptor, at most max bytes: 0, -EFBIG, -errno. */
int cli_read_all(int fd, size_t max, uint8_t **ret, size_t *ret_n);
/* TEXT, "-" for standard input, or nothing: a payload. */
int cli_payload(const char *text, uint8_t **ret, size_t *ret_n);
void cli_print_json(json_object *o); /* one line; takes the object over */
void cli_write_json(FILE *f, json_object *o);
