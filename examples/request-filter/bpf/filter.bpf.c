// Filters of requests, and some that the verifier refuses.
typedef unsigned int u32;
typedef unsigned long u64;

#define SEC(name) __attribute__((section(name), used))
#define __core __attribute__((preserve_access_index))

struct Account {
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
