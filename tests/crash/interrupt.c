/* Runs netrec, and counts the system calls by which it can change anything, those of all threads together. At the one of
 * number NETREC_CALL it ends the process (the call was carried out, nobody saw its result) or lets the call fail with
 * NETREC_ERRNO; where NETREC_ONLY names one of them, the others are not counted. Strace can do either, but counts the calls of
 * each thread by themselves, and so cannot name the calls that a later thread makes; a library that is preloaded is of no use
 * to a program that has the C library in itself. The count is written to the file NETREC_COUNT at the end, unless the process
 * was ended. Ends as netrec did (ptrace(2), seccomp(2)); of x86-64. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLS(DO)                                                     \
    DO(sendto) DO(sendmsg) DO(write) DO(mount) DO(umount2) DO(unlink) \
    DO(linkat) DO(mkdir) DO(unshare) DO(setns) DO(openat)

static long number(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

/* Stops at these calls, and at no others. */
static void filter(void) {
#define STOP(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        CALLS(STOP) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        exit(120);
}

/* Whether a call is to be counted: of those that open, only what may write or create. */
static int counts(const struct user_regs_struct *call) {
    static const struct {
        long number;
        const char *name;
    } known[] = {
#define KNOWN(name) {SYS_##name, #name},
        CALLS(KNOWN)};
    const char *only = getenv("NETREC_ONLY");
    if (call->orig_rax == SYS_openat && (call->rdx & O_ACCMODE) == O_RDONLY)
        return 0;
    for (size_t at = 0; only && at < sizeof known / sizeof *known; at++)
        if ((unsigned long long)known[at].number == call->orig_rax)
            return !strcmp(known[at].name, only);
    return 1;
}

int main(int count, char **words) {
    long wanted = number("NETREC_CALL"), failing = number("NETREC_ERRNO"), calls = 0;
    pid_t child = count > 1 ? fork() : -1;
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) || raise(SIGSTOP))
            exit(121);
        filter();
        execv(words[1], words + 1);
        exit(122);
    }
    int status;
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (waitpid(child, &status, 0) != child || ptrace(PTRACE_SETOPTIONS, child, 0, options) ||
        ptrace(PTRACE_CONT, child, 0, 0))
        return 123;
    int ends = 0;
    for (pid_t thread; (thread = waitpid(-1, &status, __WALL)) > 0;) {
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == child)
                break;
            continue;
        }
        int request = PTRACE_CONT, signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_SECCOMP && ends)
            continue; /* a call may take long: nobody changes anything, or says that all is done, until it is over */
        if (event == PTRACE_EVENT_SECCOMP) {
            struct user_regs_struct call;
            if (ptrace(PTRACE_GETREGS, thread, 0, &call) == 0 && counts(&call) && ++calls == wanted) {
                if (failing) { /* without a number it is skipped, and returns what is there */
                    call.orig_rax = -1;
                    call.rax = -failing;
                    ptrace(PTRACE_SETREGS, thread, 0, &call);
                } else {
                    request = PTRACE_SYSCALL;
                    ends = 1;
                }
            }
        } else if (signal == (SIGTRAP | 0x80)) { /* the call is over */
            kill(child, SIGKILL);
        }
        if (event || signal == SIGSTOP || signal == (SIGTRAP | 0x80))
            signal = 0; /* for the tracer, and a new thread's first */
        ptrace(request, thread, 0, signal);
    }
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        return raise(WTERMSIG(status));
    }
    const char *path = getenv("NETREC_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", calls);
        fclose(file);
    }
    return WEXITSTATUS(status);
}
