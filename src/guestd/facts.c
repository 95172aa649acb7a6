/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Facts come from files that any of the systems may lack; what is not there is left out. Text that is no
 * clean UTF-8 is left out too: the host would have to.
 */

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>

#include "base/fs.h"
#include "guestd/facts.h"
#include "proto/digest.h"
#include "proto/limits.h"
#include "proto/name.h"

#define GRND_NONBLOCK_FLAG 1

void facts_random(void *userdata, void *buf, size_t n)
{
        uint8_t *bytes = buf;
        size_t done = 0;

#ifdef SYS_getrandom
        long r = syscall(SYS_getrandom, buf, n, GRND_NONBLOCK_FLAG); /* Linux 3.17 */
        if (r > 0)
                done = (size_t)r;
#endif
        if (done < n) {
                _cleanup_close_ int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
                for (ssize_t k; fd >= 0 && done < n && (k = read(fd, bytes + done, n - done)) > 0;)
                        done += (size_t)k;
        }
        /* The epoch's freshness rests on the host's nonce (vmferry-protocol(7)); ours has to differ, not to
         * be secret. */
        static uint64_t count;
        while (done < n) {
                struct {
                        uint64_t now, realtime, count, pid;
                } seed = { fs_now_usec(), fs_realtime_usec(), ++count, (uint64_t)getpid() };
                uint64_t value = digest_of(&seed, sizeof(seed), count);
                size_t k = MIN(n - done, sizeof(value));
                memcpy(bytes + done, &value, k);
                done += k;
        }
}

void facts_make_instance(char ret[INSTANCE_SIZE])
{
        uint8_t bytes[16];

        facts_random(NULL, bytes, sizeof(bytes));
        for (size_t i = 0; i < sizeof(bytes); i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
}

static int add(json_object *o, const char *key, json_object *value)
{
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(o, key, value) < 0) {
                (void)json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

static int add_text(json_object *o, const char *key, const char *text)
{
        if (!text[0] || !name_is_text(text, FACT_BYTES_MAX))
                return 0;
        return add(o, key, json_object_new_string(text));
}

/* The value of one line of os-release(5), unquoted in place. */
static char *unquote(char *value)
{
        size_t n = strlen(value);
        char quote = value[0];

        if (n < 2 || (quote != '"' && quote != '\'') || value[n - 1] != quote)
                return value;
        value[n - 1] = '\0';
        value++;
        char *to = value;
        for (const char *from = value; *from; from++) {
                if (*from == '\\' && quote == '"' && from[1])
                        from++;
                *to++ = *from;
        }
        *to = '\0';
        return value;
}

static int add_os_release(json_object *facts)
{
        _cleanup_free_ char *text = NULL;
        size_t n, n_facts = 0;

        if (fs_read_file("/etc/os-release", 65536, &text, &n) < 0 &&
            fs_read_file("/usr/lib/os-release", 65536, &text, &n) < 0)
                return 0;
        json_object *o = json_object_new_object();
        int r = o ? 0 : -ENOMEM;
        char *rest = text;
        for (char *line; r == 0 && n_facts < FACTS_MAX && (line = strsep(&rest, "\n"));) {
                char *equals = strchr(line, '=');
                if (!equals || line[0] == '#')
                        continue;
                *equals = '\0';
                if (!line[0] || !name_is_text(line, 64))
                        continue;
                r = add_text(o, line, unquote(equals + 1));
                n_facts++;
        }
        if (r < 0) {
                (void)json_object_put(o);
                return r;
        }
        return add(facts, "os_release", o);
}

static json_object *facts_of_system(void)
{
        json_object *o = json_object_new_object();
        struct timespec uptime;
        struct utsname un;
        int r = o ? 0 : -ENOMEM;

        if (r == 0 && uname(&un) == 0) {
                r = add_text(o, "hostname", un.nodename);
                if (r == 0)
                        r = add_text(o, "kernel", un.release);
                if (r == 0)
                        r = add_text(o, "machine", un.machine);
        }
        if (r == 0 && clock_gettime(CLOCK_BOOTTIME, &uptime) == 0)
                r = add(o, "uptime_usec",
                        json_object_new_int64((int64_t)uptime.tv_sec * (int64_t)USEC_PER_SEC +
                                              uptime.tv_nsec / 1000));
        if (r == 0)
                r = add_os_release(o);
        if (r == 0)
                return o;
        (void)json_object_put(o);
        return NULL;
}

static json_object *capabilities(const Policy *policy)
{
        json_object *a = json_object_new_array();

        for (unsigned i = 0; a && i < _POLICY_VERB_MAX; i++) {
                if (!policy_may(policy, (PolicyVerb)i))
                        continue;
                json_object *s = json_object_new_string(policy_capability((PolicyVerb)i));
                if (!s || json_object_array_add(a, s) < 0) {
                        (void)json_object_put(s);
                        (void)json_object_put(a);
                        return NULL;
                }
        }
        return a;
}

json_object *facts_hello(const Policy *policy, const char *instance, const char *build)
{
        _cleanup_free_ char *boot_id = NULL;
        size_t n;

        json_object *o = json_object_new_object();
        if (!o)
                return NULL;
        int r = add(o, "agent", json_object_new_string(VMFERRY_VERSION));
        if (r == 0)
                r = add(o, "instance", json_object_new_string(instance));
        if (r == 0)
                r = add_text(o, "build", build);
        if (r == 0)
                r = add(o, "capabilities", capabilities(policy));
        if (r == 0 && fs_read_file("/proc/sys/kernel/random/boot_id", 128, &boot_id, &n) == 0) {
                boot_id[strcspn(boot_id, "\n")] = '\0';
                r = add_text(o, "boot_id", boot_id);
        }
        if (r == 0)
                r = add(o, "facts", facts_of_system());
        if (r == 0)
                return o;
        (void)json_object_put(o);
        return NULL;
}
