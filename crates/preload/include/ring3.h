/* ring3: bpf(2) in this process, without the kernel's BPF. Link with -lring3_preload, or start a program under LD_PRELOAD. */
#ifndef RING3_H
#define RING3_H

#ifdef __cplusplus
extern "C" {
#endif

union bpf_attr;

/*
 * As bpf(2): a command, its attributes and their bytes. Descriptors that come back are memfds: dup, fork, mmap and close work on them.
 * Every pointer in the attributes must be valid for what the command reads or writes; those below 4096 are EFAULT.
 * Returns what the kernel would; -1 with errno set on failure.
 */
int ring3_bpf(int cmd, union bpf_attr *attr, unsigned int size);

/*
 * Lets `ring3 trace` attach programs to functions of this program that were compiled with -fpatchable-function-entry=5. Listens at the Unix socket
 * `path`, or, for NULL, where `ring3 trace --pid` looks; once per process. Returns 0; -1 with errno set on failure.
 */
int ring3_trace_listen(const char *path);

#ifdef __cplusplus
}
#endif

#endif
