// SPDX-License-Identifier: Apache-2.0
// Eight threads beside the first, each in a chain of its own with known locals, and with
// known words in vector registers while it waits in the kernel.
//
// Local word I at depth D of thread T is mix(SEED ^ (T << 16 | D << 8 | I)). XMM8 holds
// mix(SEED ^ T) twice; where the machine has AVX, YMM9 holds it four times.
#define _GNU_SOURCE
#include <pthread.h>
#include "live.h"

#define SEED 0x3417ULL
#define THREADS 8
#define DEPTH 5
#define LOCALS 4
#define PROGRAM "multi"

static pthread_barrier_t waiting;
static __thread uint64_t own_word;
// Where each thread's frames begin and end.
static uintptr_t top[THREADS + 1], deep[THREADS + 1];
static int avx;
// Never set: a debugger could, to let them go on.
static volatile int released;

// Waits for ever, by a system call of its own: no function of the C library touches the
// registers in between.
static __attribute__((noinline)) void rest(uint64_t word)
{
	uint64_t four[4] = { word, word, word, word };

	while (!released) {
		long call = 34; // pause(2)

		if (avx)
			__asm__ volatile("vmovdqu %1, %%ymm9\n\tmovdqu %1, %%xmm8\n\tsyscall"
					 : "+a"(call)
					 : "m"(four)
					 : "rcx", "r11", "xmm8", "xmm9", "memory");
		else
			__asm__ volatile("movdqu %1, %%xmm8\n\tsyscall"
					 : "+a"(call)
					 : "m"(four)
					 : "rcx", "r11", "xmm8", "memory");
	}
}

static __attribute__((noinline)) uint64_t layer(unsigned long thread, unsigned depth)
{
	volatile uint64_t local[LOCALS];
	volatile uint8_t room[5000];
	volatile unsigned mine = depth;
	uint64_t sum = 0;

	if (depth == 0)
		top[thread] = (uintptr_t)&local + sizeof(local);
	deep[thread] = (uintptr_t)&local & ~(PAGE - 1);
	for (unsigned i = 0; i < LOCALS; i++)
		local[i] = mix(SEED ^ (thread << 16 | (uint64_t)depth << 8 | i));
	for (unsigned i = 0; i < sizeof(room); i += 64)
		room[i] = (uint8_t)(thread + i / 64);
	if (depth + 1 < DEPTH) {
		sum = layer(thread, depth + 1);
	} else {
		own_word = mix(SEED ^ thread);
		pthread_barrier_wait(&waiting);
		rest(own_word);
	}
	for (unsigned i = 0; i < LOCALS; i++)
		sum += local[i] + room[i * 64] + mine;
	return sum;
}

static void *work(void *arg)
{
	layer((unsigned long)arg, 0);
	return NULL;
}

int main(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	char more[128];

	avx = __builtin_cpu_supports("avx");
	small(512, PROGRAM, "work");
	must(pthread_barrier_init(&waiting, NULL, THREADS + 1) == 0, "barrier");
	// Too small for a huge page, which could not be swapped out in parts.
	must(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 256 * 1024) == 0,
	     "the size of stacks");
	for (unsigned long n = 1; n <= THREADS; n++)
		must(pthread_create(&thread, &attr, work, (void *)n) == 0, "pthread_create");
	pthread_barrier_wait(&waiting);
	// From the barrier to the system call is a few instructions.
	usleep(300000);
	for (unsigned long n = 1; n <= THREADS; n++) {
		char name[16];

		snprintf(name, sizeof(name), ".stack%lu", n);
		tell(name, (void *)deep[n], (top[n] - deep[n] + PAGE - 1) / PAGE);
	}
	snprintf(more, sizeof(more), " seed=%llx depth=%x threads=%x avx=%x", SEED, DEPTH,
		 THREADS + 1, avx != 0);
	ready(PROGRAM, more);
	own_word = mix(SEED);
	rest(own_word);
	return 0;
}
