/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ELF header is all that is read of it; <elf.h> has the numbers.
 */

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "deploy/program.h"

#define PROGRAM_SIZE_MAX (64 * 1024 * 1024)

static const struct {
        unsigned machine;
        bool is_64bit;
        const char *name, *alias;
} machines[] = {
        { EM_X86_64, true, "x86_64", "amd64" },   { EM_386, false, "i386", "i686" },
        { EM_AARCH64, true, "aarch64", "arm64" }, { EM_ARM, false, "arm", "armv7l" },
        { EM_RISCV, true, "riscv64", "riscv64" }, { EM_S390, true, "s390x", "s390x" },
        { EM_PPC64, true, "ppc64le", "ppc64" },
};

int program_parse(const uint8_t *untrusted_data, size_t n, Program *ret)
{
        if (n < sizeof(Elf32_Ehdr) || memcmp(untrusted_data, ELFMAG, SELFMAG) != 0)
                return -ENOEXEC;
        bool is_big = untrusted_data[EI_DATA] == ELFDATA2MSB;
        const uint8_t *type = untrusted_data + offsetof(Elf32_Ehdr, e_type),
                      *machine = untrusted_data + offsetof(Elf32_Ehdr, e_machine);
        unsigned k = is_big ? (unsigned)type[0] << 8 | type[1] : load_le16(type);
        if (k != ET_EXEC && k != ET_DYN)
                return -ENOEXEC;
        *ret = (Program){ .machine = is_big ? (unsigned)machine[0] << 8 | machine[1] : load_le16(machine),
                          .is_64bit = untrusted_data[EI_CLASS] == ELFCLASS64,
                          .is_big_endian = is_big };
        return 0;
}

int program_load(const char *path, Program *ret)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ uint8_t *data = NULL;
        struct stat st;
        size_t n = 0;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(Elf32_Ehdr))
                return -ENOEXEC;
        if (st.st_size > PROGRAM_SIZE_MAX)
                return -EFBIG;
        data = malloc((size_t)st.st_size);
        if (!data)
                return -ENOMEM;
        while (n < (size_t)st.st_size) {
                ssize_t k = read(fd, data + n, (size_t)st.st_size - n);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -EIO;
                n += (size_t)k;
        }
        int r = program_parse(data, n, ret);
        if (r < 0)
                return r;
        ret->data = TAKE(data);
        ret->n = n;
        return 0;
}

void program_done(Program *p)
{
        free(p->data);
        *p = (Program){};
}

const char *program_architecture(const Program *p)
{
        for (size_t i = 0; i < ELEMENTSOF(machines); i++)
                if (machines[i].machine == p->machine && machines[i].is_64bit == p->is_64bit)
                        return p->machine == EM_PPC64 && p->is_big_endian ? "ppc64" : machines[i].name;
        return "unknown";
}

bool program_fits(const Program *p, const char *architecture)
{
        const char *own = program_architecture(p);

        if (str_eq(own, architecture))
                return true;
        if (p->machine == EM_PPC64)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(machines); i++)
                if (str_eq(machines[i].name, own) && str_eq(machines[i].alias, architecture))
                        return true;
        return false;
}
