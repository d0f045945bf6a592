// SPDX-License-Identifier: Apache-2.0
// Runs in user mode when the machine dies: its registers are in the crash notes only.
// All of its memory but the page of `turns` stays as it is.
#define _GNU_SOURCE
#include <sched.h>
#include "live.h"

#define PROGRAM "spin"

static struct {
	volatile uint64_t turns;
} __attribute__((aligned(4096))) moving;

static __attribute__((noinline)) void spin(uint64_t known)
{
	// Kept in a register that the loop does not touch.
	register uint64_t word __asm__("r12") = mix(known);

	for (;;) {
		__asm__ volatile("" : "+r"(word));
		moving.turns++;
	}
}

int main(void)
{
	char more[128];
	cpu_set_t one;

	// The kernel writes the number of the CPU into the thread's memory (rseq(2)): it is
	// to stay the same.
	CPU_ZERO(&one);
	CPU_SET(1, &one);
	must(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");
	snprintf(more, sizeof(more), " moving=%lx word=%lx", (unsigned long)(uintptr_t)&moving,
		 (unsigned long)mix(0x591));
	small(128, PROGRAM, "work");
	ready(PROGRAM, more);
	spin(0x591);
}
