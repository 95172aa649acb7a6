/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * modules.dep has a line for each module: its path, a colon, and the paths of those that it needs, to be
 * loaded from the last to the first (depmod(8)). Compressed modules are left to the kernel (5.17 and newer)
 * or to modprobe(8).
 */

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "base/fs.h"
#include "guestd/log.h"
#include "guestd/modules.h"

#define CLASS_DIR "/sys/class/virtio-ports"
#define DEP_FILE_MAX (8u * 1024 * 1024)
#define FINIT_COMPRESSED 4 /* MODULE_INIT_COMPRESSED_FILE of linux/module.h, which older headers lack */

static const char *const drivers[] = { "virtio_pci", "virtio_mmio", "virtio_console" };

static bool is_there(void)
{
        return access(CLASS_DIR, F_OK) == 0;
}

static int run_modprobe(const char *module)
{
        static const char *const programs[] = { "/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe",
                                                "/usr/bin/modprobe" };

        for (size_t i = 0; i < ELEMENTSOF(programs); i++) {
                if (access(programs[i], X_OK) < 0)
                        continue;
                pid_t pid = fork();
                if (pid < 0)
                        return -errno;
                if (pid == 0) {
                        int null = open("/dev/null", O_RDWR);
                        if (null >= 0) {
                                (void)dup2(null, STDOUT_FILENO);
                                (void)dup2(null, STDERR_FILENO);
                        }
                        (void)execl(programs[i], "modprobe", "-q", module, (char *)NULL);
                        _exit(127);
                }
                int status;
                while (waitpid(pid, &status, 0) < 0)
                        if (errno != EINTR)
                                return -errno;
                return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ENOENT;
        }
        return -ENOENT;
}

static int insert(const char *base, const char *path, size_t n_path)
{
        _cleanup_free_ char *full = NULL;

        if (asprintf(&full, "%s%s%.*s", path[0] == '/' ? "" : base, path[0] == '/' ? "" : "/", (int)n_path,
                     path) < 0) {
                full = NULL;
                return -ENOMEM;
        }
        _cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        size_t n = strlen(full);
        bool plain = n > 3 && str_eq(full + n - 3, ".ko");
        if (syscall(SYS_finit_module, fd, "", plain ? 0 : FINIT_COMPRESSED) < 0 && errno != EEXIST) {
                int r = -errno;
                log_debug("%s: %s", full, strerror(-r));
                return r;
        }
        return 0;
}

/* Whether the path's last component is module.ko or module.ko.something; '-' and '_' are one. */
static bool is_module(const char *path, size_t n, const char *module)
{
        const char *name = path + n;
        while (name > path && name[-1] != '/')
                name--;
        for (; *module; module++, name++)
                if (name >= path + n || (*name == '-' ? '_' : *name) != *module)
                        return false;
        return path + n - name >= 3 && memcmp(name, ".ko", 3) == 0;
}

/* line: "path: need need need", without its newline. */
static int insert_with_needs(const char *base, const char *line, size_t n)
{
        const char *colon = memchr(line, ':', n);

        for (const char *end = line + n; end > colon + 1;) {
                const char *start = end;
                while (start > colon + 1 && start[-1] != ' ')
                        start--;
                if (start < end)
                        (void)insert(base, start, (size_t)(end - start));
                end = start > colon + 1 ? start - 1 : start;
        }
        return insert(base, line, (size_t)(colon - line));
}

static int load_by_dep(const char *base, const char *deps, const char *module)
{
        for (const char *line = deps; *line;) {
                size_t n = strcspn(line, "\n");
                const char *colon = memchr(line, ':', n);
                if (colon && is_module(line, (size_t)(colon - line), module))
                        return insert_with_needs(base, line, n);
                line += n + (line[n] == '\n');
        }
        return -ENOENT;
}

/* A hand-made initramfs may have the modules and no modules.dep: where kernels have kept these since 3.10,
 * in the order of their needs. What a kernel has no more, or not yet, is not there. */
static void load_by_place(const char *base)
{
        static const char *const places[] = {
                "kernel/drivers/virtio/virtio.ko",
                "kernel/drivers/virtio/virtio_ring.ko",
                "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
                "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
                "kernel/drivers/virtio/virtio_pci.ko",
                "kernel/drivers/virtio/virtio_mmio.ko",
                "kernel/drivers/char/virtio_console.ko",
        };
        static const char *const suffixes[] = { "", ".xz", ".zst", ".gz" };

        /* Twice, because virtio_ring and virtio need each other in another order in newer kernels. */
        for (unsigned round = 0; round < 2; round++)
                for (size_t i = 0; i < ELEMENTSOF(places); i++)
                        for (size_t j = 0; j < ELEMENTSOF(suffixes); j++) {
                                char place[96];
                                (void)snprintf(place, sizeof(place), "%s%s", places[i], suffixes[j]);
                                if (insert(base, place, strlen(place)) == 0)
                                        break;
                        }
}

static void load_without_modprobe(void)
{
        static const char *const roots[] = { "/lib/modules", "/usr/lib/modules" };
        struct utsname un;

        if (uname(&un) < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(roots); i++) {
                char base[128], file[160];
                _cleanup_free_ char *deps = NULL;
                size_t n;

                (void)snprintf(base, sizeof(base), "%s/%s", roots[i], un.release);
                (void)snprintf(file, sizeof(file), "%s/modules.dep", base);
                if (fs_read_file(file, DEP_FILE_MAX, &deps, &n) == 0)
                        for (size_t j = 0; j < ELEMENTSOF(drivers); j++)
                                (void)load_by_dep(base, deps, drivers[j]);
                if (!is_there())
                        load_by_place(base);
                if (is_there())
                        return;
        }
}

_Bool modules_load_virtio(void)
{
        if (is_there())
                return true;
        for (size_t i = 0; i < ELEMENTSOF(drivers); i++)
                (void)run_modprobe(drivers[i]);
        if (!is_there())
                load_without_modprobe();
        if (is_there())
                return true;
        log_error("This kernel has no virtio-serial ports: virtio_console is neither built in nor loaded, "
                  "and could not "
                  "be loaded. Load it, or give the VM a virtio-serial controller; waiting for the port.");
        return false;
}
