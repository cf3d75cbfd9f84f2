// Filters of requests, and some that the verifier refuses.
typedef unsigned int u32;
typedef unsigned long u64;

#define SEC(name) __attribute__((section(name), used))
#define __core __attribute__((preserve_access_index))

struct Account {
	u32 id;
	u32 quota;
	u64 requests;
} __core;

struct Request {
	u32 method;
	u32 bytes;
	struct Account *account;
} __core;

static u64 (*const requests_left)(const struct Account *account) = (void *)0x10000;
static void (*const report)(const struct Request *request, u32 weight) = (void *)0x10001;
extern struct Account *account_find(u32 id) __attribute__((section(".ksyms")));
extern void account_put(struct Account *account) __attribute__((section(".ksyms")));

char LICENSE[] SEC("license") = "MIT";

SEC("request_filter")
int by_quota(struct Request *request)
{
	struct Account *account = request->account;

	if (request->method == 1)
		return 1;
	if (request->bytes > account->quota) {
		report(request, 10);
		return 0;
	}
	return requests_left(account) > 0;
}

SEC("request_filter")
int raises_quota(struct Request *request)
{
	request->account->quota = ~0;
	return 1;
}

SEC("request_filter")
int reads_too_far(struct Request *request)
{
	return *(volatile u64 *)((char *)request->account + 64) != 0;
}

SEC("request_filter")
int hands_over_a_number(struct Request *request)
{
	return requests_left((void *)(u64)request->bytes);
}

SEC("request_filter")
int changes_the_request(struct Request *request)
{
	*(volatile u32 *)&request->bytes = 0;
	return 1;
}

/* Teams have the round numbers: who has nothing left may use the quota of the team. */
SEC("request_filter")
int by_team(struct Request *request)
{
	struct Account *team = account_find(request->account->id / 100 * 100);
	int allowed = 0;

	if (team) {
		allowed = request->bytes <= team->quota && requests_left(team) > 0;
		account_put(team);
	}
	return allowed;
}

SEC("request_filter")
int keeps_the_account(struct Request *request)
{
	return account_find(request->account->id) != 0;
}

SEC("request_filter")
int puts_what_it_was_lent(struct Request *request)
{
	account_put(request->account);
	return 1;
}

SEC("request_filter")
int reads_what_it_gave_back(struct Request *request)
{
	struct Account *account = account_find(1);

	if (!account)
		return 0;
	account_put(account);
	return account->quota;
}
