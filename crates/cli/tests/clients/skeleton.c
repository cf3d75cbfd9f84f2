// A client made of libbpf's skeleton of rings.bpf.c: prints what it reads, one line each.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include "rings.skel.h"

static unsigned long long ring_sum, ring_count, perf_sum, perf_count;

static int on_record(void *context, void *data, size_t size)
{
	(void)context;
	ring_sum += *(unsigned long long *)data;
	ring_count += size == 8;
	return 0;
}

static void on_event(void *context, int cpu, void *data, __u32 size)
{
	(void)context;
	(void)cpu;
	(void)size;
	perf_sum += *(unsigned long long *)data;
	perf_count++;
}

static int run(struct bpf_program *prog, int repeat)
{
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet), .repeat = repeat);
	int result = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);

	return result ? result : (int)opts.retval;
}

int main(void)
{
	struct rings *skel = rings__open();
	struct ring_buffer *ring;
	struct perf_buffer *perf;
	struct user_ring_buffer *orders;
	unsigned long long *order, seen = 0;
	unsigned key = 7;

	if (!skel)
		return 1;
	skel->rodata->step = 3;
	if (rings__load(skel))
		return 2;
	ring = ring_buffer__new(bpf_map__fd(skel->maps.ring), on_record, NULL, NULL);
	perf = perf_buffer__new(bpf_map__fd(skel->maps.events), 4, on_event, NULL, NULL, NULL);
	orders = user_ring_buffer__new(bpf_map__fd(skel->maps.orders), NULL);
	if (!ring || !perf || !orders)
		return 3;
	printf("empty %d %d\n", ring_buffer__poll(ring, 0), perf_buffer__poll(perf, 0));
	printf("count %d\n", run(skel->progs.count, 5));
	printf("ring %d\n", ring_buffer__poll(ring, 1000));
	printf("ring %llu of sum %llu\n", ring_count, ring_sum);
	while (perf_count < 5 && perf_buffer__poll(perf, 1000) > 0)
		;
	printf("perf %llu of sum %llu\n", perf_count, perf_sum);
	for (int i = 1; i <= 3; i++) {
		order = user_ring_buffer__reserve(orders, sizeof(*order));
		if (!order)
			return 4;
		*order = i * 10;
		user_ring_buffer__submit(orders, order);
	}
	printf("drain %d\n", run(skel->progs.drain, 1));
	printf("globals %llu %llu %llu\n", skel->rodata->step, skel->bss->total, skel->bss->ordered);
	bpf_map_lookup_elem(bpf_map__fd(skel->maps.counts), &key, &seen);
	printf("hash %llu\n", seen);
	skel->bss->total = 100;
	printf("count %d\n", run(skel->progs.count, 1));
	printf("globals %llu\n", skel->bss->total);
	printf("frozen %d\n", bpf_map__update_elem(skel->maps.rodata, &(int){ 0 }, 4, skel->rodata, 8, 0));
	// A mapping that can be written to is in the way of freezing.
	printf("freeze %d\n", bpf_map_freeze(bpf_map__fd(skel->maps.bss)));
	user_ring_buffer__free(orders);
	perf_buffer__free(perf);
	ring_buffer__free(ring);
	rings__destroy(skel);
	return 0;
}
