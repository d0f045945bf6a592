// SPDX-License-Identifier: Apache-2.0
// A process worth looking for in a dump: known words in its heap and on its
// stack, a known call chain, and half of the heap swapped out.
//
// usage: victim SEED HEAP_PAGES
// Word at address A (of 8 bytes, heap) is mix(SEED ^ A); local word I of the
// frame at depth D is mix(SEED ^ (D << 8 | I)). It prints one line of facts
// and sleeps at the deepest frame.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define DEPTH 12
#define LOCALS 8
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static uint64_t seed;
static uint8_t *heap;
static unsigned long pages;
// Never set: a debugger could, to let it go on.
static volatile int released;

// splitmix64's output function (Steele, Lea, Flood 2014).
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

// kB of the heap that are in swap, from /proc/self/smaps.
static long swapped_kb(void)
{
	char line[512];
	long kb = 0;
	int ours = 0;
	FILE *f = fopen("/proc/self/smaps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			ours = from < (uintptr_t)heap + pages * PAGE && to > (uintptr_t)heap;
		else if (ours && !strncmp(line, "Swap:", 5))
			kb += strtol(line + 5, NULL, 10);
	}
	if (f)
		fclose(f);
	return kb;
}

static void *second_thread(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

static void settle(void)
{
	long kb = 0;

	for (int i = 0; i < 50 && kb < (long)(pages / 2 * 4) * 9 / 10; i++) {
		madvise(heap, pages / 2 * PAGE, MADV_PAGEOUT);
		usleep(100000);
		kb = swapped_kb();
	}
	printf("LB victim pid=%d heap=%#lx pages=%lu seed=%#lx swapped_kb=%ld depth=%d\n",
	       getpid(), (unsigned long)heap, pages, (unsigned long)seed, kb, DEPTH);
	fflush(stdout);
	while (!released)
		pause();
}

static __attribute__((noinline)) uint64_t descend(unsigned depth)
{
	volatile uint64_t local[LOCALS];
	uint64_t sum = 0;

	for (unsigned i = 0; i < LOCALS; i++)
		local[i] = mix(seed ^ ((uint64_t)depth << 8 | i));
	if (depth + 1 < DEPTH)
		sum = descend(depth + 1);
	else
		settle();
	for (unsigned i = 0; i < LOCALS; i++)
		sum += local[i];
	return sum;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 3)
		return 2;
	seed = strtoull(argv[1], NULL, 0);
	pages = strtoul(argv[2], NULL, 0);
	heap = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED)
		return 1;
	madvise(heap, pages * PAGE, MADV_NOHUGEPAGE);
	for (unsigned long i = 0; i < pages * PAGE / 8; i++)
		((uint64_t *)heap)[i] = mix(seed ^ (uintptr_t)(heap + i * 8));
	pthread_create(&thread, NULL, second_thread, NULL);
	return (int)descend(0);
}
