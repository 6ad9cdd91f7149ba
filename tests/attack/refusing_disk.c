/* Fails the N-th operation that needs room on the disk of one folder, in every process that preloads this.

Owns the count and the refusal; `refusing_disk.py` compiles it and chooses the operation.
The counters are in a file that all processes of a command map, so that an encoder's writes count, too.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOM_FOR_NAME = 3072, ROOM_FOR_FILES = 16384 };

/* The layout of `refusing_disk._Counters`. */
struct counters {
    int64_t at;      /* the operation to fail, from 1; 0: none */
    int64_t stays;   /* whether all later ones fail, too */
    int64_t done;    /* operations so far */
    char folder[ROOM_FOR_NAME];
    int64_t files[ROOM_FOR_FILES];  /* for each operation that writes, the file's number on the disk; else 0 */
};

static struct counters *counters;

__attribute__((constructor)) static void map_counters(void) {
    const char *path = getenv("M2D_COUNTERS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) counters = mapped;
}

static int is_inside(const char *name) {
    size_t length = strlen(counters->folder);
    return length && !strncmp(name, counters->folder, length) && (name[length] == '/' || !name[length]);
}

static int is_on_disk(int file) {
    char link[64], name[PATH_MAX];
    if (!counters || !counters->folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) return 0;
    name[length] = 0;
    return is_inside(name);
}

static int names_disk(int folder, const char *path) {
    char name[2 * PATH_MAX];
    if (!counters || !counters->folder[0]) return 0;
    if (path[0] == '/') return is_inside(path);
    if (folder != AT_FDCWD) return is_on_disk(folder);
    if (!getcwd(name, PATH_MAX)) return 0;
    size_t length = strlen(name);
    snprintf(name + length, sizeof name - length, "/%s", path);
    return is_inside(name);
}

/* Count an operation, on `file` if it writes; return whether it fails. `*is_first` is set if it is the first. */
static int is_refused(int *is_first, int file) {
    int64_t number = __atomic_add_fetch(&counters->done, 1, __ATOMIC_SEQ_CST), at = counters->at;
    struct stat found;
    if (file >= 0 && number < ROOM_FOR_FILES && !fstat(file, &found)) counters->files[number] = found.st_ino;
    *is_first = number == at;
    return at && (number == at || (counters->stays && number > at));
}

static int refuse(void) {
    errno = ENOSPC;
    return -1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define REFUSE_ON(condition) do { int first; if ((condition) && is_refused(&first, -1)) return refuse(); } while (0)
#define MAKES(flags) ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE)
#define MODE(flags, mode) va_list rest; va_start(rest, flags); mode_t mode = MAKES(flags) ? va_arg(rest, int) : 0; va_end(rest)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags, mode); REAL(name); \
        REFUSE_ON(MAKES(flags) && names_disk(AT_FDCWD, path)); \
        return real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags, mode); REAL(name); \
        REFUSE_ON(MAKES(flags) && names_disk(folder, path)); \
        return real(folder, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); int first; \
        if (mode[0] != 'r' && names_disk(AT_FDCWD, path) && is_refused(&first, -1)) { refuse(); return NULL; } \
        return real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* A disk that fills up takes the first part of a write. */
#define PART_OF(size) int first; if (size && is_on_disk(file) && is_refused(&first, file)) { \
        if (!first || !counters->stays || size < 2) return refuse(); \
        size /= 2; }

ssize_t write(int file, const void *data, size_t size) {
    REAL(write); PART_OF(size)
    return real(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    REAL(pwrite); PART_OF(size)
    return real(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    REAL(pwrite64); PART_OF(size)
    return real(file, data, size, at);
}
ssize_t sendfile(int file, int from, off_t *at, size_t size) {
    REAL(sendfile); PART_OF(size)
    return real(file, from, at, size);
}
ssize_t sendfile64(int file, int from, off64_t *at, size_t size) {
    REAL(sendfile64); PART_OF(size)
    return real(file, from, at, size);
}
ssize_t copy_file_range(int from, off64_t *from_at, int file, off64_t *at, size_t size, unsigned flags) {
    REAL(copy_file_range); PART_OF(size)
    return real(from, from_at, file, at, size, flags);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev); REFUSE_ON(is_on_disk(file));
    return real(file, parts, count);
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev); REFUSE_ON(is_on_disk(file));
    return real(file, parts, count, at);
}
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(fwrite); int first;
    if (is_on_disk(fileno(file)) && is_refused(&first, fileno(file))) { refuse(); return 0; }
    return real(data, size, count, file);
}
int ftruncate(int file, off_t size) { REAL(ftruncate); REFUSE_ON(size && is_on_disk(file)); return real(file, size); }
int ftruncate64(int file, off64_t size) { REAL(ftruncate64); REFUSE_ON(size && is_on_disk(file)); return real(file, size); }
int fallocate(int file, int mode, off_t at, off_t size) { REAL(fallocate); REFUSE_ON(is_on_disk(file)); return real(file, mode, at, size); }
/* Unlike the others, these two return the error. */
int posix_fallocate(int file, off_t at, off_t size) { REAL(posix_fallocate); int first; return is_on_disk(file) && is_refused(&first, -1) ? ENOSPC : real(file, at, size); }
int posix_fallocate64(int file, off64_t at, off64_t size) { REAL(posix_fallocate64); int first; return is_on_disk(file) && is_refused(&first, -1) ? ENOSPC : real(file, at, size); }
int fsync(int file) { REAL(fsync); REFUSE_ON(is_on_disk(file)); return real(file); }
int fdatasync(int file) { REAL(fdatasync); REFUSE_ON(is_on_disk(file)); return real(file); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); REFUSE_ON(names_disk(AT_FDCWD, path)); return real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); REFUSE_ON(names_disk(folder, path)); return real(folder, path, mode); }
int rename(const char *from, const char *to) { REAL(rename); REFUSE_ON(names_disk(AT_FDCWD, to)); return real(from, to); }
int renameat(int from_folder, const char *from, int folder, const char *to) { REAL(renameat); REFUSE_ON(names_disk(folder, to)); return real(from_folder, from, folder, to); }
int renameat2(int from_folder, const char *from, int folder, const char *to, unsigned flags) { REAL(renameat2); REFUSE_ON(names_disk(folder, to)); return real(from_folder, from, folder, to, flags); }
int link(const char *from, const char *to) { REAL(link); REFUSE_ON(names_disk(AT_FDCWD, to)); return real(from, to); }
int linkat(int from_folder, const char *from, int folder, const char *to, int flags) { REAL(linkat); REFUSE_ON(names_disk(folder, to)); return real(from_folder, from, folder, to, flags); }
int symlink(const char *to, const char *path) { REAL(symlink); REFUSE_ON(names_disk(AT_FDCWD, path)); return real(to, path); }
int symlinkat(const char *to, int folder, const char *path) { REAL(symlinkat); REFUSE_ON(names_disk(folder, path)); return real(to, folder, path); }
