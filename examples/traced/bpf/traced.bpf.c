// A record for every call of handle_request: its arguments and what it returned.
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]

static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static long (*const bpf_get_func_arg)(void *ctx, u32 n, u64 *value) = (void *)183;
static long (*const bpf_get_func_ret)(void *ctx, u64 *value) = (void *)184;

struct {
	__uint(type, 27 /* BPF_MAP_TYPE_RINGBUF */);
	__uint(max_entries, 65536);
} requests SEC(".maps");

struct request {
	u64 id;
	u64 bytes;
	u64 result;
};

u64 calls;

char LICENSE[] SEC("license") = "GPL";

SEC("fentry/handle_request")
int before(u64 *ctx)
{
	calls++;
	return 0;
}

SEC("fexit/handle_request")
int after(u64 *ctx)
{
	struct request request = {};

	bpf_get_func_arg(ctx, 0, &request.id);
	bpf_get_func_arg(ctx, 1, &request.bytes);
	bpf_get_func_ret(ctx, &request.result);
	/* A 32-bit argument leaves the upper half of its register as it was. */
	request.bytes = (u32)request.bytes;
	bpf_ringbuf_output(&requests, &request, sizeof(request), 0);
	return 0;
}
