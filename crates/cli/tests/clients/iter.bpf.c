// Iterators, one per object: over maps, elements of a map, programs, links, tasks.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define KERNEL __attribute__((preserve_access_index))

struct seq_file {
	unsigned long count;
} KERNEL;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} KERNEL;

struct bpf_map {
	__u32 max_entries;
	__u32 id;
	char name[16];
} KERNEL;

struct bpf_prog_aux {
	__u32 id;
	char name[16];
} KERNEL;

struct bpf_prog {
	enum bpf_prog_type type;
	struct bpf_prog_aux *aux;
} KERNEL;

struct bpf_link {
	__u32 id;
	enum bpf_link_type type;
	struct bpf_prog *prog;
} KERNEL;

#ifdef OVER_MAPS
struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
} KERNEL;

SEC("iter/bpf_map")
int over(struct bpf_iter__bpf_map *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct bpf_map *map = ctx->map;

	if (map)
		BPF_SEQ_PRINTF(seq, "map %s of %u\n", map->name, map->max_entries);
	else
		BPF_SEQ_PRINTF(seq, "%llu maps\n", ctx->meta->seq_num);
	return 0;
}
#endif

#ifdef OVER_ELEMENTS
struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
} KERNEL;

SEC("iter/bpf_map_elem")
int over(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;

	if (!key || !value) {
		BPF_SEQ_PRINTF(seq, "%llu of %u\n", ctx->meta->seq_num, ctx->map->max_entries);
		return 0;
	}
	BPF_SEQ_PRINTF(seq, "%u: %llu\n", *key, *value);
	*value += 1;
	return 0;
}
#endif

#ifdef OVER_PROGRAMS
struct bpf_iter__bpf_prog {
	struct bpf_iter_meta *meta;
	struct bpf_prog *prog;
} KERNEL;

SEC("iter/bpf_prog")
int over(struct bpf_iter__bpf_prog *ctx)
{
	struct bpf_prog *prog = ctx->prog;

	if (prog)
		BPF_SEQ_PRINTF(ctx->meta->seq, "program %s type %u\n", prog->aux->name, prog->type);
	return 0;
}
#endif

#ifdef OVER_LINKS
struct bpf_iter__bpf_link {
	struct bpf_iter_meta *meta;
	struct bpf_link *link;
} KERNEL;

SEC("iter/bpf_link")
int over(struct bpf_iter__bpf_link *ctx)
{
	struct bpf_link *link = ctx->link;

	if (link)
		BPF_SEQ_PRINTF(ctx->meta->seq, "link type %u of %s\n", link->type, link->prog->aux->name);
	return 0;
}
#endif

#ifdef OVER_TASKS
SEC("iter/task")
int over(void *ctx)
{
	(void)ctx;
	return 0;
}
#endif

char _license[] SEC("license") = "GPL";
