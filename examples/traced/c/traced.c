/* A program whose functions may be traced: calls one of them a thousand times a second, until standard input ends. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "ring3.h"

__attribute__((noinline)) uint64_t handle_request(uint64_t id, uint32_t bytes)
{
	return id * 1000 + bytes;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	uint64_t checksum = 0;

	if (ring3_trace_listen(argc > 1 ? argv[1] : NULL)) {
		perror("ring3_trace_listen");
		return 1;
	}
	puts("listening");
	fflush(stdout);
	for (uint64_t id = 1; poll(&input, 1, 0) == 0; id++) {
		uint64_t result = handle_request(id, 64 + id % 8);

		if (result != id * 1000 + 64 + id % 8)
			return 2;
		checksum += result;
		usleep(1000);
	}
	printf("done %d\n", checksum != 0);
	return 0;
}
