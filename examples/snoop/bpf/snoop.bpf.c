// Copies packets at the entry and exit of an XDP program and of a classifier, with what they returned.
typedef int s32;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __core __attribute__((preserve_access_index))
#define __uint(name, val) int(*name)[val]

struct net_device {
	int ifindex;
} __core;

struct xdp_rxq_info {
	struct net_device *dev;
} __core;

struct xdp_buff {
	void *data;
	void *data_end;
	struct xdp_rxq_info *rxq;
} __core;

struct sk_buff {
	struct net_device *dev;
	u32 len;
} __core;

static long (*const bpf_skb_output)(void *skb, void *map, u64 flags, void *data, u64 size) = (void *)111;
static long (*const bpf_xdp_output)(void *xdp, void *map, u64 flags, void *data, u64 size) = (void *)121;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

#define CURRENT_CPU 0xffffffffULL
#define SNAP_BYTES 65535

struct {
	__uint(type, 4 /* BPF_MAP_TYPE_PERF_EVENT_ARRAY */);
	__uint(key_size, 4);
	__uint(value_size, 4);
} packets SEC(".maps");

struct seen {
	u32 is_xdp;
	u32 is_exit;
	s32 retval;
	u32 ifindex;
	u32 len;
};

char LICENSE[] SEC("license") = "GPL";

static u64 flags_for(u32 len)
{
	u64 captured = len > SNAP_BYTES ? SNAP_BYTES : len;

	return captured << 32 | CURRENT_CPU;
}

static int xdp(struct xdp_buff *xdp, u32 is_exit, s32 retval)
{
	struct seen seen = { .is_xdp = 1, .is_exit = is_exit, .retval = retval };
	struct net_device *dev = xdp->rxq->dev;

	bpf_probe_read_kernel(&seen.ifindex, 4, __builtin_preserve_access_index(&dev->ifindex));
	seen.len = xdp->data_end - xdp->data;
	return bpf_xdp_output(xdp, &packets, flags_for(seen.len), &seen, sizeof(seen));
}

static int skb(struct sk_buff *skb, u32 is_exit, s32 retval)
{
	struct seen seen = { .is_exit = is_exit, .retval = retval, .len = skb->len };
	struct net_device *dev = skb->dev;

	bpf_probe_read_kernel(&seen.ifindex, 4, __builtin_preserve_access_index(&dev->ifindex));
	return bpf_skb_output(skb, &packets, flags_for(seen.len), &seen, sizeof(seen));
}

SEC("fentry")
int xdp_in(u64 *ctx)
{
	xdp((void *)ctx[0], 0, 0);
	return 0;
}

SEC("fexit")
int xdp_out(u64 *ctx)
{
	xdp((void *)ctx[0], 1, ctx[1]);
	return 0;
}

SEC("fentry")
int tc_in(u64 *ctx)
{
	skb((void *)ctx[0], 0, 0);
	return 0;
}

SEC("fexit")
int tc_out(u64 *ctx)
{
	skb((void *)ctx[0], 1, ctx[1]);
	return 0;
}
