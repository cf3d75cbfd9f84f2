/* 1024 map operations a run, one program per operation; `baseline` is the same loop without one. Maps hold the keys 0 .. max_entries. */
#include "bench.h"

enum { HASH = 1, ARRAY = 2, PROG_ARRAY = 3, LRU_HASH = 9, LPM_TRIE = 11 };
enum { NO_PREALLOC = 1 };
enum { OPS = 1024, ENTRIES = 10000, MANY = 1000000 };

static void *(*const lookup)(void *map, const void *key) = (void *)1;
static long (*const update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const delete)(void *map, const void *key) = (void *)3;
static long (*const tail_call)(void *ctx, void *map, u32 index) = (void *)12;

#define MAP(name, kind, entries) \
	struct { UINT(type, kind); TYPE(key, u32); TYPE(value, u64); UINT(max_entries, entries); } name MAPS

MAP(array, ARRAY, ENTRIES);
MAP(hash, HASH, ENTRIES);
MAP(hash_many, HASH, MANY);
MAP(lru, LRU_HASH, ENTRIES);
MAP(scratch, HASH, ENTRIES);
struct lpm_key { u32 bits; u32 address; };
struct {
	UINT(type, LPM_TRIE);
	TYPE(key, struct lpm_key);
	TYPE(value, u64);
	UINT(max_entries, ENTRIES);
	UINT(map_flags, NO_PREALLOC);
} lpm MAPS;
struct { UINT(type, PROG_ARRAY); UINT(max_entries, 4); UINT(key_size, 4); UINT(value_size, 4); } progs MAPS;

/* A key below 8192 of a walk that no prefetcher sees through; the packet's first word chooses the half, so that threads work on other keys. */
#define KEY(i, seed) (((i) * 2654435761u >> 20) | ((seed) & 4096))
/* The same with the halves turned inside out: every key has a neighbour of the other half. */
#define NEAR(i, seed) ((KEY(i, 0) << 1) | ((seed) >> 12 & 1))
/* A key below 1,000,000. */
#define WIDE(i) ((u32)(((u64)((i) * 2654435761u) * 1000000) >> 32))

#define LOOP(name, setup, body) \
	PROGRAM(name) \
	{ \
		PACKET(ctx); \
		u64 sum = 0; \
		u32 seed = *(u32 *)packet; \
		setup; \
		for (u32 i = 0; i < OPS; i++) { \
			KEEP(i); \
			u32 key = KEY(i, seed); \
			body; \
		} \
		return fold(sum); \
	}

#define FOUND(map, key) \
	u64 *value = lookup(&map, key); \
	if (value) \
		sum += *value

LOOP(baseline, , { KEEP(key); sum += key; })
LOOP(array_lookup, , { FOUND(array, &key); })
LOOP(array_increment, , { u64 *value = lookup(&array, &key); if (value) *value += 1; sum += key; })
LOOP(hash_lookup, , { FOUND(hash, &key); })
LOOP(hash_lookup_1m, , { key = WIDE(i + seed); FOUND(hash_many, &key); })
LOOP(hash_update, u64 new = 1, { sum += update(&hash, &key, &new, 0); })
LOOP(hash_update_near, u64 new = 1, { key = NEAR(i, seed); sum += update(&hash, &key, &new, 0); })
LOOP(hash_update_delete, u64 new = 1, { sum += update(&scratch, &key, &new, 0); sum += delete(&scratch, &key); })
LOOP(lru_lookup, , { FOUND(lru, &key); })
LOOP(lru_update, u64 new = 1, { sum += update(&lru, &key, &new, 0); })
LOOP(lpm_lookup, struct lpm_key prefix = { .bits = 32 }, { prefix.address = key; FOUND(lpm, &prefix); })

/* Calls itself through slot 0 until the limit of 33 ends it. */
PROGRAM(tail_chain)
{
	tail_call(ctx, &progs, 0);
	return 33;
}
