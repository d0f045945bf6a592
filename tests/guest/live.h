// SPDX-License-Identifier: Apache-2.0
// What the programs share whose cores are to come back from a dump: pages that name
// the program, the region and the page, and the line of facts that the host reads.
//
// A page of a region is one of eight kinds, by its number modulo 8, so that what
// compresses pages meets all that it may meet:
//   0 without order, 1 one line of text over and over, 2 half without order,
//   3 a quarter, 4 three quarters, 5 one word over and over and no name, 6 written with
//   zeros and no name, 7 numbers that grow.
// All but 5 and 6 begin with a name of 64 bytes: "PROGRAM/REGION/NUMBER", zeros behind.
#ifndef LIVE_H
#define LIVE_H
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define NAME 64
#define MIB (1UL << 20)

// splitmix64's output function (Steele, Lea, Flood 2014).
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("LB FAILED %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static inline void fill_page(uint8_t *page, const char *program, const char *region, size_t n)
{
	static const uint16_t wild[8] = { 512, 0, 256, 128, 384, 0, 0, 0 };
	uint64_t word[PAGE / 8], seed = mix(n ^ (uintptr_t)page);
	char name[NAME];
	unsigned kind = n % 8;

	memset(name, 0, sizeof(name));
	snprintf(name, sizeof(name), "%s/%s/%06zu", program, region, n);
	for (size_t i = 0; i < PAGE / 8; i++) {
		if (kind == 5)
			word[i] = seed;
		else if (kind == 6)
			word[i] = 0;
		else if (kind == 7)
			word[i] = ((uint64_t)n << 32) + i * 24;
		else if (i < wild[kind])
			word[i] = mix(seed ^ i);
		else
			memcpy(&word[i], name + i % (NAME / 8) * 8, 8);
	}
	if (kind != 5 && kind != 6)
		memcpy(word, name, NAME);
	memcpy(page, word, PAGE);
}

// Regions are told as NAME:ADDRESS:PAGES, in hexadecimal.
static char regions[2048];

static inline void tell(const char *name, const void *at, size_t pages)
{
	size_t used = strlen(regions);

	snprintf(regions + used, sizeof(regions) - used, " region=%s:%lx:%lx", name,
		 (unsigned long)(uintptr_t)at, (unsigned long)pages);
}

static inline void fill(uint8_t *at, size_t pages, const char *program, const char *region)
{
	for (size_t n = 0; n < pages; n++)
		fill_page(at + n * PAGE, program, region, n);
	tell(region, at, pages);
}

static inline void *map(size_t len, int flags, int fd)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	must(p != MAP_FAILED, "mmap");
	return p;
}

// Private memory in small pages. A page that nobody touches lies on either side, which
// keeps regions apart: neighbours of one kind would be one area.
static inline uint8_t *small(size_t pages, const char *program, const char *region)
{
	size_t len = (pages + 2) * PAGE;
	uint8_t *p = map(len, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	madvise(p, len, MADV_NOHUGEPAGE);
	must(mprotect(p, PAGE, PROT_NONE) == 0, "mprotect");
	fill(p + PAGE, pages, program, region);
	return p + PAGE;
}

// The one line that init's `start` waits for.
static inline void ready(const char *program, const char *more)
{
	printf("LB live %s pid=%d%s%s\n", program, getpid(), more, regions);
	fflush(stdout);
}
#endif
