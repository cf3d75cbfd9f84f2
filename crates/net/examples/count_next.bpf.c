// Parses headers, counts bytes by flow in a hash, and leaves the packet to the next program.
#include "bpf.h"

struct flow {
	__u32 saddr;
	__u32 daddr;
	__u32 ports;
	__u32 protocol;
};

struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, __u64);
} flows SEC(".maps");

SEC("tc")
int count_next(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 *ports = (void *)(ip + 1);
	struct flow flow = {};
	__u64 *bytes, first;

	if ((void *)(ports + 1) > end || eth->proto != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	flow.saddr = ip->saddr;
	flow.daddr = ip->daddr;
	flow.ports = *ports;
	flow.protocol = ip->protocol;
	bytes = bpf_map_lookup_elem(&flows, &flow);
	if (bytes) {
		__sync_fetch_and_add(bytes, skb->len);
	} else {
		first = skb->len;
		bpf_map_update_elem(&flows, &flow, &first, BPF_ANY);
	}
	return TC_ACT_UNSPEC;
}
