/* A process to make core files of: threads, a deep call chain, known values everywhere. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGES = 64, PAGE = 4096, DEPTH = 12, THREADS = 3 };

struct node {
	int value;
	struct node *next;
	char text[24];
};

unsigned char table[PAGES][PAGE] __attribute__((aligned(4096)));
static __thread volatile int mine;
unsigned char *reserved;
struct node *list;

__attribute__((noinline)) static int deep(int depth, const char *word)
{
	char local[64];
	volatile int square = depth * depth;
	long result = 34; /* pause(2) */

	snprintf(local, sizeof local, "%s at depth %d", word, depth);
	if (depth > 0)
		return deep(depth - 1, word) + square + local[0];
	/* Known vector and x87 registers, while it sleeps in the kernel. */
	__asm__ volatile("pcmpeqd %%xmm5, %%xmm5\n\t"
			 "movd %1, %%xmm6\n\t"
			 "fldpi\n\t"
			 "syscall"
			 : "+a"(result)
			 : "r"(0x600df00d)
			 : "rcx", "r11", "xmm5", "xmm6", "memory");
	return local[result & 1];
}

static void *thread(void *arg)
{
	mine = (int)(long)arg * 1000;
	return (void *)(long)deep(DEPTH, "thread");
}

int main(void)
{
	pthread_t id;

	for (int page = 0; page < PAGES; page++)
		for (int i = 0; i < PAGE; i++)
			table[page][i] = (unsigned char)(page + i);
	/* Zeros in the middle of something: a few pages, and many. */
	memset(table[10], 0, PAGE);
	memset(table[40], 0, 20 * PAGE);
	for (int i = 5; i > 0; i--) {
		struct node *node = malloc(sizeof *node);

		node->value = i * 11;
		node->next = list;
		snprintf(node->text, sizeof node->text, "node %d", i);
		list = node;
	}
	/* Memory that is only reserved, but for one page. gcore reads all of it. */
	reserved = mmap(NULL, 64L << 20, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	reserved[5 * PAGE] = 77;
	for (long i = 1; i <= THREADS; i++)
		pthread_create(&id, NULL, thread, (void *)i);
	mine = 42;
	return deep(DEPTH, "main");
}
