// All ways of a client to get data: globals, a hash, a ring buffer, perf events, and a user ring buffer the other way round.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} orders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 16);
} counts SEC(".maps");

const volatile __u64 step = 1;
__u64 total;
__u64 ordered;

static long take(struct bpf_dynptr *order, void *context)
{
	__u64 value = 0;

	(void)context;
	bpf_dynptr_read(&value, sizeof(value), order, 0, 0);
	ordered += value;
	return 0;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 key = 7;
	__u64 one = 1, *seen, *record;

	total += step;
	seen = bpf_map_lookup_elem(&counts, &key);
	if (seen)
		__sync_fetch_and_add(seen, 1);
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	if (record) {
		*record = total;
		bpf_ringbuf_submit(record, 0);
	}
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &total, sizeof(total));
	return XDP_PASS;
}

SEC("classifier")
int drain(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_user_ringbuf_drain(&orders, take, 0, 0);
}

char _license[] SEC("license") = "GPL";
