/* Programs that call nothing outside of themselves: they run on every engine and natively. */
#include "bench.h"

/* What a run costs beside the program. */
PROGRAM(empty)
{
	(void)ctx;
	return 0;
}

/* 64-bit hash mixing: 500 rounds of xor, shift, multiply. */
PROGRAM(alu_hash)
{
	PACKET(ctx);
	u64 state = *(u64 *)packet, sum = 0;
	for (u32 i = 0; i < 500; i++) {
		KEEP(i);
		state += 0x9e3779b97f4a7c15ull;
		u64 z = state;
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
		sum += z ^ (z >> 31);
	}
	return fold(sum);
}

/* MurmurHash3, 32 bits, over 1024 bytes. */
PROGRAM(murmur32)
{
	PACKET(ctx);
	u32 h = 42;
	for (u32 i = 0; i < 1024; i += 4) {
		KEEP(i);
		if (i >= 1024)
			break;
		u32 k = *(u32 *)(packet + i) * 0xcc9e2d51u;
		h ^= rotl32(k, 15) * 0x1b873593u;
		h = rotl32(h, 13) * 5 + 0xe6546b64u;
	}
	h ^= 1024;
	h = (h ^ h >> 16) * 0x85ebca6bu;
	h = (h ^ h >> 13) * 0xc2b2ae35u;
	return h ^ h >> 16;
}

/* Multiplication, division and remainder, by variables and by constants. */
PROGRAM(muldiv)
{
	PACKET(ctx);
	u64 sum = 0;
	for (u32 i = 0; i < 1024; i += 8) {
		KEEP(i);
		if (i >= 1024)
			break;
		u64 v = *(u64 *)(packet + i);
		u32 d = packet[i] | 1;
		sum += v / d + v % 1000;
		sum ^= (u32)(v >> 32) / (d + 6);
		sum = sum * 10007 + (u32)v / 7;
	}
	return fold(sum);
}

/* Internet checksum over 1500 bytes. */
PROGRAM(csum1500)
{
	PACKET(ctx);
	u64 sum = 0;
	for (u32 i = 0; i < PACKET_BYTES; i += 4) {
		KEEP(i);
		if (i >= PACKET_BYTES)
			break;
		sum += *(u32 *)(packet + i);
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/* Ethernet, VLAN, IPv4 and ports of twenty headers of 64 bytes. */
PROGRAM(headers)
{
	PACKET(ctx);
	u32 found = 0;
	for (u32 i = 0; i < 20 * 64; i += 64) {
		KEEP(i);
		if (i >= 20 * 64)
			break;
		u8 *head = packet + i;
		u16 proto = *(u16 *)(head + 12);
		u32 at = 14;
		if (proto == 0x0081) {
			proto = *(u16 *)(head + 16);
			at = 18;
		}
		if (proto != 0x0008) {
			found = found * 31 + proto;
			continue;
		}
		u8 *ip = head + at;
		u32 ihl = (ip[0] & 15) * 4;
		if (ihl < 20 || ihl > 40) {
			found += 1;
			continue;
		}
		u8 l4 = ip[9];
		u32 ports = 0;
		if (l4 == 6 || l4 == 17) {
			u16 *port = (u16 *)(ip + ihl);
			if ((u8 *)(port + 2) > (u8 *)(u64)ctx->data_end)
				return 0;
			ports = (u32)__builtin_bswap16(port[0]) << 16 | __builtin_bswap16(port[1]);
		}
		found = rotl32(found, 5) ^ *(u32 *)(ip + 12) ^ *(u32 *)(ip + 16) ^ ports ^ l4;
	}
	return found;
}

/* A byte state machine over 1024 bytes: words, numbers, quotes. */
PROGRAM(bytes)
{
	PACKET(ctx);
	u32 words = 0, numbers = 0, quoted = 0;
	u64 state = 0;
	for (u32 i = 0; i < 1024; i++) {
		KEEP(i);
		KEEP(state);
		if (i >= 1024)
			break;
		u8 c = packet[i];
		if (state == 3) {
			quoted++;
			if (c == '"')
				state = 0;
		} else if (c == '"') {
			state = 3;
		} else if (c >= '0' && c <= '9') {
			if (state == 0) {
				numbers++;
				state = 2;
			}
		} else if ((c | 32) >= 'a' && (c | 32) <= 'z') {
			if (state != 1)
				words++;
			state = 1;
		} else {
			state = 0;
		}
	}
	return words << 20 ^ numbers << 10 ^ quoted;
}

static __noinline u64 step(u64 v, u64 by)
{
	KEEP(v);
	return (v ^ by) * 0x100000001b3ull;
}

/* 3000 calls of a subprogram. */
PROGRAM(calls3000)
{
	PACKET(ctx);
	u64 v = *(u64 *)packet;
	for (u32 i = 0; i < 3000; i++) {
		KEEP(i);
		v = step(v, i);
	}
	return fold(v);
}

#define SIPROUND \
	do { \
		v0 += v1; v1 = rotl64(v1, 13); v1 ^= v0; v0 = rotl64(v0, 32); \
		v2 += v3; v3 = rotl64(v3, 16); v3 ^= v2; \
		v0 += v3; v3 = rotl64(v3, 21); v3 ^= v0; \
		v2 += v1; v1 = rotl64(v1, 17); v1 ^= v2; v2 = rotl64(v2, 32); \
	} while (0)

/* SipHash-2-4 over 1024 bytes. */
PROGRAM(siphash)
{
	PACKET(ctx);
	u64 k0 = 0x0706050403020100ull, k1 = 0x0f0e0d0c0b0a0908ull;
	u64 v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
	u64 v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;
	for (u32 i = 0; i < 1024; i += 8) {
		KEEP(i);
		if (i >= 1024)
			break;
		u64 m = *(u64 *)(packet + i);
		v3 ^= m;
		SIPROUND;
		SIPROUND;
		v0 ^= m;
	}
	v2 ^= 0xff;
	SIPROUND;
	SIPROUND;
	SIPROUND;
	SIPROUND;
	return fold(v0 ^ v1 ^ v2 ^ v3);
}

/* Jenkins' lookup3 mixing over 1020 bytes. */
PROGRAM(jhash)
{
	PACKET(ctx);
	u32 a = 0xdeadbeef, b = a, c = a;
	for (u32 i = 0; i < 1020; i += 12) {
		KEEP(i);
		if (i >= 1020)
			break;
		a += *(u32 *)(packet + i);
		b += *(u32 *)(packet + i + 4);
		c += *(u32 *)(packet + i + 8);
		a -= c; a ^= rotl32(c, 4); c += b;
		b -= a; b ^= rotl32(a, 6); a += c;
		c -= b; c ^= rotl32(b, 8); b += a;
		a -= c; a ^= rotl32(c, 16); c += b;
		b -= a; b ^= rotl32(a, 19); a += c;
		c -= b; c ^= rotl32(b, 4); b += a;
	}
	c ^= b; c -= rotl32(b, 14);
	a ^= c; a -= rotl32(c, 11);
	b ^= a; b -= rotl32(a, 25);
	return c ^ a ^ b;
}
