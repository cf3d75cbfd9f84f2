/* 1024 turns of a loop with calls of one helper; `baseline` is the same loop without any. */
#include "bench.h"

enum { HASH = 1, ARRAY = 2, PERF_EVENT_ARRAY = 4, RINGBUF = 27 };
enum { OPS = 1024, ENTRIES = 10000, NO_WAKEUP = 1, CURRENT_CPU = -1 };

static void *(*const lookup)(void *map, const void *key) = (void *)1;
static long (*const update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const get_ktime)(void) = (void *)5;
static u32 (*const get_prandom)(void) = (void *)7;
static u32 (*const get_cpu)(void) = (void *)8;
static u64 (*const get_pid_tgid)(void) = (void *)14;
static long (*const perf_output)(void *ctx, void *map, u64 flags, void *data, u64 size) = (void *)25;
static void *(*const reserve)(void *map, u64 size, u64 flags) = (void *)131;
static void (*const submit)(void *record, u64 flags) = (void *)132;

#define MAP(name, kind, entries) \
	struct { UINT(type, kind); TYPE(key, u32); TYPE(value, u64); UINT(max_entries, entries); } name MAPS

MAP(array, ARRAY, ENTRIES);
MAP(hash, HASH, ENTRIES);
struct { UINT(type, RINGBUF); UINT(max_entries, 64 << 20); } ring MAPS;
struct { UINT(type, PERF_EVENT_ARRAY); UINT(key_size, 4); UINT(value_size, 4); UINT(max_entries, 64); } events MAPS;

#define LOOP(name, setup, body) \
	PROGRAM(name) \
	{ \
		u64 sum = 0; \
		setup; \
		for (u32 i = 0; i < OPS; i++) { \
			KEEP(i); \
			u32 key = i * 2654435761u >> 20; \
			KEEP(key); \
			body; \
		} \
		return sum; \
	}

#define FOUR(body) body body body body
#define THIRTY_TWO(body) FOUR(FOUR(body body))

/* What a helper answers is used, and does not reach the result. */
LOOP(baseline, , { u64 v = key; KEEP(v); })
LOOP(array_lookup, , { u64 *v = lookup(&array, &key); if (v) { u64 w = *v; KEEP(w); } })
LOOP(hash_lookup, , { u64 *v = lookup(&hash, &key); if (v) { u64 w = *v; KEEP(w); } })
LOOP(hash_update, , { u64 v = key; sum += update(&hash, &key, &v, 0) != 0; })
LOOP(ktime, , { u64 v = get_ktime(); KEEP(v); })
/* These take less time than the loop around them, which would hide a few of them. */
LOOP(pid_tgid, , THIRTY_TWO({ u64 v = get_pid_tgid(); KEEP(v); }))
LOOP(cpu_id, , THIRTY_TWO({ u64 v = get_cpu(); KEEP(v); }))
LOOP(prandom, , { u64 v = get_prandom(); KEEP(v); })
LOOP(ringbuf, , { u64 *v = reserve(&ring, 8, 0); if (v) { *v = key; submit(v, NO_WAKEUP); } else sum++; })
LOOP(perf_event, u64 data[8] = {}, { data[0] = key; sum += perf_output(ctx, &events, (u32)CURRENT_CPU, data, sizeof(data)) != 0; })
