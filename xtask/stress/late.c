/* Preloaded into tests by `cargo xtask stress`: after some system calls the thread that made them sleeps a little, as it would on
 * a machine with more to do. What happened by then, and what did not, differs from one run to the next: tests that assert a moment
 * fail, and so do waits that nobody ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static uint64_t one_in, most_ns;

__attribute__((constructor)) static void settings(void) {
    const char *often = getenv("LATE_ONE_IN"), *most = getenv("LATE_MOST_MS");
    one_in = often ? strtoull(often, NULL, 10) : 40;
    most_ns = (most ? strtoull(most, NULL, 10) : 15) * 1000000;
}

/* xorshift, each thread its own. */
static uint64_t next(void) {
    static __thread uint64_t state;
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        state = (uint64_t)now.tv_nsec * 2654435761u ^ (uint64_t)(uintptr_t)&state ^ 88172645463325252ull;
    }
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void late(void) {
    if (one_in && most_ns && next() % one_in == 0) {
        int error = errno;
        struct timespec pause = {0, (long)(next() % (most_ns < 1000000000 ? most_ns : 1000000000))};
        nanosleep(&pause, NULL);
        errno = error;
    }
}

#define LATE(type, name, declared, given)                                                                                            \
    type name declared {                                                                                                             \
        static type(*real) declared;                                                                                                 \
        if (!real) real = (type(*) declared)dlsym(RTLD_NEXT, #name);                                                                 \
        type result = real given;                                                                                                    \
        late();                                                                                                                      \
        return result;                                                                                                               \
    }

LATE(ssize_t, write, (int fd, const void *from, size_t len), (fd, from, len))
LATE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
LATE(ssize_t, send, (int fd, const void *from, size_t len, int flags), (fd, from, len, flags))
LATE(ssize_t, sendto, (int fd, const void *from, size_t len, int flags, const struct sockaddr *to, socklen_t size), (fd, from, len, flags, to, size))
LATE(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
LATE(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), (fd, messages, count, flags))
LATE(ssize_t, sendfile, (int out, int in, off_t *at, size_t len), (out, in, at, len))
LATE(ssize_t, sendfile64, (int out, int in, off64_t *at, size_t len), (out, in, at, len))
LATE(ssize_t, recv, (int fd, void *to, size_t len, int flags), (fd, to, len, flags))
LATE(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
LATE(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *wait), (fd, messages, count, flags, wait))
LATE(int, epoll_wait, (int fd, struct epoll_event *events, int most, int wait_ms), (fd, events, most, wait_ms))
LATE(int, accept4, (int fd, struct sockaddr *from, socklen_t *size, int flags), (fd, from, size, flags))
LATE(int, fsync, (int fd), (fd))
LATE(int, fdatasync, (int fd), (fd))

/* Futexes, which is how threads wake each other. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    long result = real(number, a, b, c, d, e, f);
    if (number == SYS_futex) late();
    return result;
}
