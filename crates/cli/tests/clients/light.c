// A client made of the light skeleton of rings.bpf.c: its loader is a program, which calls bpf(2) and reads the initial values of globals.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "rings.lskel.h"

static int run(int prog, int repeat)
{
	char packet[64] = { 0 };
	union bpf_attr attr = { 0 };

	attr.test.prog_fd = prog;
	attr.test.data_in = (unsigned long)packet;
	attr.test.data_size_in = sizeof(packet);
	attr.test.repeat = repeat;
	return skel_sys_bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)) ? -errno : (int)attr.test.retval;
}

static int lookup(int map, void *key, void *value)
{
	union bpf_attr attr = { 0 };

	attr.map_fd = map;
	attr.key = (unsigned long)key;
	attr.value = (unsigned long)value;
	return skel_sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)) ? -errno : 0;
}

int main(void)
{
	struct rings *skel = rings__open();
	unsigned long long seen = 0;
	unsigned key = 7;
	int error;

	if (!skel)
		return 1;
	printf("initial %llu %llu\n", skel->rodata->step, skel->bss->total);
	skel->rodata->step = 3;
	skel->bss->total = 40;
	error = rings__load(skel);
	if (error) {
		printf("load %d\n", error);
		return 2;
	}
	printf("loaded %llu %llu\n", skel->rodata->step, skel->bss->total);
	printf("count %d\n", run(skel->progs.count.prog_fd, 5));
	printf("globals %llu %llu\n", skel->rodata->step, skel->bss->total);
	printf("lookup %d\n", lookup(skel->maps.counts.map_fd, &key, &seen));
	printf("hash %llu\n", seen);
	skel->bss->total = 100;
	printf("count %d\n", run(skel->progs.count.prog_fd, 1));
	printf("globals %llu\n", skel->bss->total);
	printf("frozen %d\n", skel_map_update_elem(skel->maps.rodata.map_fd, &(int){ 0 }, skel->rodata, 0) < 0 ? -errno : 0);
	rings__destroy(skel);
	return 0;
}
