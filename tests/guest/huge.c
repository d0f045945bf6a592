// SPDX-License-Identifier: Apache-2.0
// Huge pages: transparent ones, some of which are to be swapped out, one that is mapped
// in small pieces, and pages of hugetlbfs, private and shared.
#define _GNU_SOURCE
#include "live.h"

#define HUGE (2 * MIB)
#define PROGRAM "huge"

static uint8_t *transparent(size_t number, const char *region)
{
	uint8_t *p = map((number + 2) * HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	p = (uint8_t *)(((uintptr_t)p + HUGE) / HUGE * HUGE);
	madvise(p, number * HUGE, MADV_HUGEPAGE);
	fill(p, number * HUGE / PAGE, PROGRAM, region);
	return p;
}

static uint8_t *reserved(size_t number, int flags, int fd, const char *region)
{
	uint8_t *p = map(number * HUGE, flags, fd);

	fill(p, number * HUGE / PAGE, PROGRAM, region);
	return p;
}

int main(void)
{
	uint8_t *pieces;
	int fd = memfd_create(PROGRAM, MFD_HUGETLB | MFD_CLOEXEC);

	transparent(3, "thp");
	transparent(2, "thpout");
	pieces = transparent(1, "pieces");
	// The huge page stays; the entries that map it become small.
	must(mprotect(pieces + 64 * PAGE, 8 * PAGE, PROT_READ) == 0, "mprotect");
	reserved(2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, "hugetlb");
	must(fd >= 0 && ftruncate(fd, 2 * HUGE) == 0, "memfd of huge pages");
	reserved(2, MAP_SHARED, fd, "hugeshared");
	small(256, PROGRAM, "small");
	ready(PROGRAM, "");
	for (;;)
		pause();
}
