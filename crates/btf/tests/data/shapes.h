#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

struct empty {};

enum wide {
	SMALL = 1ULL,
	HUGE_VALUE = 4294967296ULL,
};

struct tree;

typedef struct tree tree_t;

struct bits;

struct node;

struct tagged;

struct packed;

struct all {
	tree_t *t;
	struct bits *b;
	struct node *n;
	struct tagged *g;
	struct empty e;
	struct packed *p;
	enum wide w;
};

typedef int (*callback_t)(const char *, void *, ...);

enum color {
	RED = 0,
	GREEN = 5,
	BLUE = -1,
};

typedef int matrix_t[3][4];

typedef unsigned long long u64;

union pair {
	u64 whole;
	struct {
		unsigned int low;
		unsigned int high;
	};
};

struct ops {
	callback_t plain;
	int (*table[4])(struct ops *, enum color);
	void (* (*nested)(int))(void);
	matrix_t *matrix;
	const struct {
		union pair p;
		enum {
			INNER_A = 0,
			INNER_B = 1,
		} kind;
	} *inline_def;
	float real;
	_Bool flag;
};

struct tree {
	struct tree *left;
	struct ops ops;
};

typedef unsigned char u8;

struct packed {
	u8 a;
	u64 b;
} __attribute__((packed));

struct padded {
	u8 a;
	long: 64;
	long: 64;
	long: 64;
	u64 b;
	u8 c;
	long: 64;
	long: 64;
};

struct bits {
	unsigned int a: 3;
	int b: 5;
	u64 c: 40;
	u8 tail;
};

struct list {
	struct node *first;
	struct node **last;
};

struct node {
	struct list owner;
	struct node *next;
	volatile int * const marks[2];
};

struct flexible {
	int count;
	struct {
		u8 key[6];
	} items[0];
};

struct tagged {
	int __attribute__((btf_type_tag("kptr"))) *p;
};

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
