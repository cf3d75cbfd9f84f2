/* What the bench programs need: the same source is compiled for BPF and, with NATIVE defined, for the host. */
#ifndef PEERS_BENCH_H
#define PEERS_BENCH_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define PACKET_BYTES 1500
#define __noinline __attribute__((noinline))
#define __inline inline __attribute__((always_inline))
/* The compiler forgets what it knows of a variable: loops keep their counter, the verifier sees a number. */
#define KEEP(v) asm volatile("" : "+r"(v))

#ifdef NATIVE
struct xdp_md {
	u64 data;
	u64 data_end;
};
#define PROGRAM(name) u32 native_##name(struct xdp_md *ctx); u32 native_##name(struct xdp_md *ctx)
#else
struct xdp_md {
	u32 data;
	u32 data_end;
};
#define PROGRAM(name) __attribute__((section("xdp"), used)) int name(struct xdp_md *ctx)
#define MAPS __attribute__((section(".maps"), used))
#define UINT(name, val) int(*name)[val]
#define TYPE(name, val) typeof(val) *name
char license_text[] __attribute__((section("license"), used)) = "Dual MIT/GPL";
#endif

/* The packet, at least PACKET_BYTES long. */
#define PACKET(ctx) \
	u8 *packet = (u8 *)(u64)(ctx)->data; \
	if (packet + PACKET_BYTES > (u8 *)(u64)(ctx)->data_end) \
		return 0

static __inline u32 rotl32(u32 v, int n) { return v << n | v >> (32 - n); }
static __inline u64 rotl64(u64 v, int n) { return v << n | v >> (64 - n); }
static __inline u32 fold(u64 v) { return (u32)v ^ (u32)(v >> 32); }

#endif
