// Shapes of C types whose declarations are hard to print. Built with: clang-19 -g -O2 -target bpf -c shapes.c
typedef unsigned char u8;
typedef unsigned long long u64;
typedef int (*callback_t)(const char *name, void *ctx, ...);
typedef int matrix_t[3][4];

enum color { RED, GREEN = 5, BLUE = -1 };
enum wide { SMALL = 1, HUGE_VALUE = 0x100000000ULL };
enum { ANONYMOUS_VALUE = 7 };
union pair { u64 whole; struct { unsigned low, high; }; };

struct node;
struct list { struct node *first, **last; };
struct node { struct list owner; struct node *next; volatile int *const marks[2]; };

struct bits { unsigned a : 3; int b : 5; u64 c : 40; u8 tail; };
struct packed { u8 a; u64 b; } __attribute__((packed));
struct padded { u8 a; u64 b __attribute__((aligned(32))); u8 c; };
struct empty {};
struct flexible { int count; struct { u8 key[6]; } items[]; };

struct ops {
	callback_t plain;
	int (*table[4])(struct ops *self, enum color c);
	void (*(*nested)(int depth))(void);
	matrix_t *matrix;
	const struct { union pair p; enum { INNER_A, INNER_B } kind; } *inline_def;
	float real;
	_Bool flag;
};

typedef struct tree { struct tree *left; struct ops ops; } tree_t;

struct tagged { int __attribute__((btf_type_tag("kptr"))) *p; } __attribute__((btf_decl_tag("mark")));

static int use_enum(enum wide w) { return w == HUGE_VALUE ? ANONYMOUS_VALUE : 0; }
extern int missing(struct packed *p) __attribute__((section(".ksyms")));

struct padded global_padded;
static volatile struct flexible *hidden;

tree_t global_tree;
struct bits global_bits;
struct node global_node;
struct flexible global_flexible;
struct tagged global_tagged;
matrix_t global_matrix;
enum color global_color;
typeof(*(*(struct ops *)0).inline_def) global_inline;

struct all { tree_t *t; struct bits *b; struct node *n; struct tagged *g; struct empty e; struct packed *p; enum wide w; };

__attribute__((section("socket"))) int shapes(struct all *a)
{
	return a->t->ops.flag + a->b->a + (a->n->next != 0) + *a->g->p + global_padded.c + (hidden != 0) + use_enum(a->w)
		+ missing(a->p);
}
