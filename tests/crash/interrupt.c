/* Preloaded into netrec: counts the calls by which it can change anything, those of all threads together, and at the
 * one of number NETREC_CALL ends the process (the call was carried out, nobody saw its result) or lets the call fail
 * with NETREC_ERRNO; where NETREC_ONLY names one of them, the others are not counted. Strace can do either, but counts
 * the calls of each thread by themselves, and so cannot name the calls that a later thread makes. The count is written
 * to the file NETREC_COUNT at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;

static long number(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

/* Counts a call; whether it is the one of that number. */
static int counts(const char *name) {
    const char *only = getenv("NETREC_ONLY");
    return (!only || !strcmp(only, name)) && atomic_fetch_add(&calls, 1) + 1 == number("NETREC_CALL");
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("NETREC_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", atomic_load(&calls));
        fclose(file);
    }
}

#define CALL(type, name, arguments, ...)                                 \
    type name arguments {                                                \
        type(*real) arguments = dlsym(RTLD_NEXT, #name);                 \
        int hit = counts(#name);                                         \
        if (hit && number("NETREC_ERRNO")) {                             \
            errno = number("NETREC_ERRNO");                              \
            return -1;                                                   \
        }                                                                \
        type result = real(__VA_ARGS__);                                 \
        if (hit)                                                         \
            kill(getpid(), SIGKILL);                                     \
        return result;                                                   \
    }

CALL(ssize_t, send, (int fd, const void *data, size_t size, int flags), fd, data, size, flags)
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
CALL(ssize_t, sendto,
     (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length),
     fd, data, size, flags, to, length)
CALL(ssize_t, write, (int fd, const void *data, size_t size), fd, data, size)
CALL(int, mount, (const char *from, const char *to, const char *type, unsigned long flags, const void *data),
     from, to, type, flags, data)
CALL(int, umount2, (const char *path, int flags), path, flags)
CALL(int, unlink, (const char *path), path)
CALL(int, linkat, (int from, const char *path, int to, const char *other, int flags), from, path, to, other, flags)
CALL(int, mkdir, (const char *path, mode_t mode), path, mode)
CALL(int, unshare, (int flags), flags)
CALL(int, setns, (int fd, int type), fd, type)

/* Only what may write or create. */
int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if ((flags & O_ACCMODE) == O_RDONLY)
        return real(path, flags, mode);
    int hit = counts("open64");
    if (hit && number("NETREC_ERRNO")) {
        errno = number("NETREC_ERRNO");
        return -1;
    }
    int fd = real(path, flags, mode);
    if (hit)
        kill(getpid(), SIGKILL);
    return fd;
}
