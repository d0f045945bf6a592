// SPDX-License-Identifier: Apache-2.0
// One thread, a deep call chain with known locals, each frame on pages of its own, and a
// region for each place that its pages are sent to.
//
// Local word I of the frame at depth D is mix(SEED ^ (D << 8 | I)).
#define _GNU_SOURCE
#include "live.h"

#define SEED 0x51e61eULL
#define DEPTH 24
#define LOCALS 8
#define PROGRAM "single"

// Never set: a debugger could, to let it go on.
static volatile int released;
// A global that gdb can print, and a string behind a pointer.
volatile uint64_t known_word;
const char *known_text;

static void settle(void)
{
	char more[128];

	snprintf(more, sizeof(more), " seed=%llx depth=%x word=%lx", SEED, DEPTH,
		 (unsigned long)known_word);
	ready(PROGRAM, more);
	while (!released)
		pause();
}

static __attribute__((noinline)) uint64_t descend(unsigned depth)
{
	volatile uint64_t local[LOCALS];
	// More than a page: the chain fills many pages of the stack.
	volatile uint8_t room[6000];
	volatile unsigned mine = depth;
	uint64_t sum = 0;

	for (unsigned i = 0; i < LOCALS; i++)
		local[i] = mix(SEED ^ ((uint64_t)depth << 8 | i));
	for (unsigned i = 0; i < sizeof(room); i += 64)
		room[i] = (uint8_t)(depth + i / 64);
	if (depth + 1 < DEPTH)
		sum = descend(depth + 1);
	else
		settle();
	for (unsigned i = 0; i < LOCALS; i++)
		sum += local[i] + room[i * 64] + mine;
	return sum;
}

int main(void)
{
	char *text = malloc(64);

	must(text != NULL, "malloc");
	snprintf(text, 64, "known text of %s", PROGRAM);
	known_text = text;
	known_word = mix(SEED);
	small(6144, PROGRAM, "disk");
	small(1024, PROGRAM, "zswap1");
	small(1024, PROGRAM, "zswap2");
	small(1024, PROGRAM, "zswap3");
	small(1536, PROGRAM, "zram1");
	small(1536, PROGRAM, "zram2");
	small(1024, PROGRAM, "file");
	small(512, PROGRAM, "stay");
	return (int)descend(0);
}
