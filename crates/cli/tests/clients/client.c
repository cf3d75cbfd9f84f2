// A client of bpf(2) without a library: each word of the command line is a step, each step prints one line.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static long bpf(int cmd, union bpf_attr *attr, unsigned size)
{
	long result = syscall(SYS_bpf, cmd, attr, size);
	return result < 0 ? -errno : result;
}

static long create(int type, int key, int value, int entries, int flags)
{
	union bpf_attr a = { .map_type = type, .key_size = key, .value_size = value,
			     .max_entries = entries, .map_flags = flags };
	memcpy(a.map_name, "m", 2);
	return bpf(BPF_MAP_CREATE, &a, 72);
}

static long elem(int cmd, int fd, const void *key, void *value)
{
	union bpf_attr a = { .map_fd = fd, .key = (long)key, .value = (long)value };
	return bpf(cmd, &a, 32);
}

static long path(int cmd, int fd, const char *name)
{
	union bpf_attr a = { .pathname = (long)name, .bpf_fd = fd };
	return bpf(cmd, &a, 20);
}

static long load(int type, const struct bpf_insn *insns, int count)
{
	union bpf_attr a = { .prog_type = type, .insns = (long)insns, .insn_cnt = count, .license = (long)"GPL" };
	memcpy(a.prog_name, "one", 4);
	return bpf(BPF_PROG_LOAD, &a, 120);
}

static long first(int cmd)
{
	union bpf_attr a = { .start_id = 0 };
	long result = bpf(cmd, &a, 8);
	return result ? result : a.next_id;
}

static long first_map(void) { return first(BPF_MAP_GET_NEXT_ID); }

// A program that sends one record of 8 bytes into a ring buffer.
static long load_sender(long ring)
{
	struct bpf_insn insns[] = {
		{ .code = 0x7a, .dst_reg = 10, .off = -8, .imm = 99 },
		{ .code = 0x18, .dst_reg = 1, .src_reg = 1, .imm = ring }, { 0 },
		{ .code = 0xbf, .dst_reg = 2, .src_reg = 10 },
		{ .code = 0x07, .dst_reg = 2, .imm = -8 },
		{ .code = 0xb7, .dst_reg = 3, .imm = 8 },
		{ .code = 0xb7, .dst_reg = 4 },
		{ .code = 0x85, .imm = BPF_FUNC_ringbuf_output },
		{ .code = 0xb7 }, { .code = 0x95 },
	};
	return load(BPF_PROG_TYPE_SCHED_CLS, insns, 10);
}

static long run(long prog, unsigned repeat)
{
	char packet[64] = { 0 };
	union bpf_attr a = { .test = { .prog_fd = prog, .data_in = (long)packet, .data_size_in = 64, .repeat = repeat } };
	return bpf(BPF_PROG_TEST_RUN, &a, 80);
}

static void ignore(int signal) { (void)signal; }

int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	long map = -1;
	for (int i = 1; i < argc; i++) {
		char *step = argv[i];
		unsigned key = 1;
		unsigned long long value = 42, got = 0;
		if (!strcmp(step, "map")) {
			map = create(BPF_MAP_TYPE_HASH, 4, 8, 16, 0);
			printf("map %d update %ld ", map > 2, elem(BPF_MAP_UPDATE_ELEM, map, &key, &value));
			printf("lookup %ld ", elem(BPF_MAP_LOOKUP_ELEM, map, &key, &got));
			printf("%llu ", got);
			key = 9;
			printf("missing %ld\n", elem(BPF_MAP_LOOKUP_ELEM, map, &key, &got));
		} else if (!strcmp(step, "copies")) {
			// The object lives in a copy, in a child, and ends with the last.
			long fd = create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0);
			int copy = dup(fd), status = 0;
			key = 0;
			close(fd);
			printf("dup %ld ", elem(BPF_MAP_UPDATE_ELEM, copy, &key, &value));
			printf("closed %ld ", elem(BPF_MAP_UPDATE_ELEM, fd, &key, &value));
			if (fork() == 0)
				_exit(elem(BPF_MAP_LOOKUP_ELEM, copy, &key, &got) || got != 42);
			wait(&status);
			printf("child %d\n", status);
			close(copy);
		} else if (!strcmp(step, "mmap")) {
			long fd = create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE);
			volatile unsigned long long *memory =
				mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			key = 2;
			elem(BPF_MAP_UPDATE_ELEM, fd, &key, &value);
			memory[3] = 7;
			key = 3;
			elem(BPF_MAP_LOOKUP_ELEM, fd, &key, &got);
			printf("mmap %llu %llu plain ", memory[2], got);
			memory = mmap(0, 4096, PROT_READ, MAP_SHARED, create(BPF_MAP_TYPE_HASH, 4, 8, 4, 0), 0);
			printf("%d\n", memory == MAP_FAILED ? errno : 0);
		} else if (!strcmp(step, "ring")) {
			// A program sends one record; epoll on the map's descriptor tells of it once.
			long fd = create(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0);
			long prog = load_sender(fd);
			int epoll = epoll_create1(0);
			struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 }, seen = { 0 };
			printf("ring add %d ", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
			printf("idle %d ", epoll_wait(epoll, &seen, 1, 10));
			printf("run %ld ", run(prog, 1));
			printf("event %d ", epoll_wait(epoll, &seen, 1, 1000));
			unsigned long *consumer = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			unsigned long *producer = mmap(0, 3 * 4096, PROT_READ, MAP_SHARED, fd, 4096);
			printf("data %lu at %lu of %lu value %lu\n", (unsigned long)seen.data.u64, *consumer,
			       *producer, producer[513]);
		} else if (!strcmp(step, "hostile")) {
			// What is written past the rules of mmap(2) harms nobody else, and nothing can be cut.
			long fd = create(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0), prog = load_sender(fd);
			unsigned long page[512];
			printf("hostile cut %d ", ftruncate(fd, 0) ? errno : 0);
			for (unsigned seed = 1; seed < 64; seed++) {
				for (int word = 0; word < 512; word++)
					page[word] = (unsigned long)seed << (word * seed % 64);
				for (int at = 0; at < 4; at++)
					if (pwrite(fd, page, sizeof(page), at * 4096) != sizeof(page))
						printf("short ");
				run(prog, 3);
			}
			printf("run %ld ", run(prog, 1));
			fd = create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG);
			printf("constant %d ", pwrite(fd, page, 8, 0) < 0 ? errno : 0);
			key = 0;
			printf("update %ld\n", elem(BPF_MAP_UPDATE_ELEM, fd, &key, &value));
		} else if (!strcmp(step, "freeze")) {
			// A mapping that can be written to is in the way, also a child's.
			long fd = create(BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE);
			union bpf_attr a = { .map_fd = fd };
			void *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			int ends[2], status;
			if (pipe(ends))
				return 1;
			printf("freeze mapped %ld ", bpf(BPF_MAP_FREEZE, &a, 4));
			if (fork() == 0) {
				close(ends[1]);
				_exit(read(ends[0], &status, 1));
			}
			munmap(memory, 4096);
			printf("child %ld ", bpf(BPF_MAP_FREEZE, &a, 4));
			close(ends[1]);
			wait(&status);
			printf("gone %ld ", bpf(BPF_MAP_FREEZE, &a, 4));
			memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			printf("again %d ", memory == MAP_FAILED ? errno : 0);
			memory = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
			printf("read %d ", memory == MAP_FAILED ? errno : 0);
			printf("protect %d\n", mprotect(memory, 4096, PROT_READ | PROT_WRITE) ? errno : 0);
		} else if (!strcmp(step, "spin")) {
			struct bpf_insn insns[] = { { .code = 0xb7 }, { .code = 0x95 } };
			printf("spin\n");
			run(load(BPF_PROG_TYPE_SCHED_CLS, insns, 2), ~0u);
		} else if (!strcmp(step, "none-runs")) {
			long id = 0;
			for (int wait = 0; wait < 1000 && (id = first(BPF_PROG_GET_NEXT_ID)) != -ENOENT; wait++)
				usleep(10000);
			printf("none %ld\n", id);
		} else if (!strcmp(step, "many")) {
			long made = 0, fd;
			while ((fd = create(BPF_MAP_TYPE_ARRAY, 4, 4096, 64, 0)) >= 0)
				made++;
			printf("many %ld %ld\n", made, fd);
		} else if (!strcmp(step, "signals")) {
			// Interrupted by a signal, no call runs twice: each delete finds its element.
			int wrong = 0;
			signal(SIGALRM, ignore);
			ualarm(2000, 2000);
			for (int round = 0; round < 500; round++) {
				wrong += elem(BPF_MAP_UPDATE_ELEM, map, &round, &value) != 0;
				wrong += elem(BPF_MAP_DELETE_ELEM, map, &round, 0) != 0;
			}
			ualarm(0, 0);
			printf("signals wrong %d\n", wrong);
		} else if (!strcmp(step, "bad")) {
			union bpf_attr a = { 0 };
			printf("bad %ld %ld %ld %ld %ld\n", bpf(BPF_MAP_LOOKUP_ELEM, &a, 32), bpf(9999, &a, 8),
			       (long)bpf(BPF_MAP_CREATE, (void *)8, 72), bpf(BPF_MAP_CREATE, &a, 5000),
			       elem(BPF_MAP_LOOKUP_ELEM, map, (void *)8, &got));
		} else if (!strcmp(step, "pin")) {
			printf("pin %ld ", path(BPF_OBJ_PIN, map, "/sys/fs/bpf/pin"));
			printf("again %ld ", path(BPF_OBJ_PIN, map, "/sys/fs/bpf/pin"));
			printf("outside %ld\n", path(BPF_OBJ_PIN, map, "/tmp/pin"));
		} else if (!strcmp(step, "get")) {
			map = path(BPF_OBJ_GET, 0, "/sys/fs/bpf/pin");
			printf("get %d lookup %ld ", map > 2, elem(BPF_MAP_LOOKUP_ELEM, map, &key, &got));
			printf("%llu foreign %ld ", got, path(BPF_OBJ_GET, 0, "/proc/version"));
			printf("missing %ld\n", path(BPF_OBJ_GET, 0, "/sys/fs/bpf/none"));
		} else if (!strcmp(step, "unpin")) {
			struct statfs fs = { 0 };
			int told = statfs("/sys/fs/bpf", &fs);
			printf("magic %d %lx ", told, (long)fs.f_type);
			printf("rename %d ", rename("/sys/fs/bpf/pin", "/sys/fs/bpf/other"));
			printf("unlink %d\n", unlink("/sys/fs/bpf/other"));
		} else if (!strcmp(step, "fdinfo")) {
			char name[64], line[128];
			snprintf(name, sizeof(name), "/proc/self/fdinfo/%ld", map);
			FILE *file = fopen(name, "r");
			while (file && fgets(line, sizeof(line), file))
				if (!strncmp(line, "map_type", 8) || !strncmp(line, "memlock", 7))
					printf("%.*s ", (int)strcspn(line, "\n"), line);
			printf("fdinfo\n");
		} else if (!strcmp(step, "none")) {
			long id = 0;
			// Closed by a process that just ended: the daemon hears of it on its own time.
			for (int wait = 0; wait < 200 && (id = first_map()) != -ENOENT; wait++)
				usleep(10000);
			printf("none %ld\n", id);
		} else if (!strcmp(step, "first")) {
			long id = first_map();
			printf("first %ld\n", id > 0 ? 1 : id);
		} else if (!strcmp(step, "hold")) {
			printf("hold\n");
			getchar();
		} else if (!strcmp(step, "load")) {
			struct bpf_insn insns[] = { { .code = 0xb7 }, { .code = 0x95 } };
			long fd = load(BPF_PROG_TYPE_SOCKET_FILTER, insns, 2);
			insns[0].code = 0x05;
			printf("load %d rejected %ld\n", fd > 2, load(BPF_PROG_TYPE_SOCKET_FILTER, insns, 2));
		}
	}
	return 0;
}
