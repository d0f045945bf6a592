// SPDX-License-Identifier: Apache-2.0
// Fills the memory of a machine that will crash with what servers hold: the
// benchmarks' input. Each call does one thing, prints one line and, where memory
// is to stay, waits for ever. Nothing here depends on the time or on chance.
//   mount DEV DIR TYPE        mounts a file system
//   random MIB SEED           anonymous memory without any order (keys, media)
//   zero MIB                  anonymous pages that were touched and hold zeros
//   table MIB SEED            a process's heap: records, pointers, short strings
//   log MIB FILE SEED         a log as daemons write it; stays in the page cache
//   copy MIB FROM TO          files of a tree, copied one behind the other to TO, no
//                             more than MIB of them
//   read DIR...               reads every file below the folders
//   chroot DIR PROG ARG...    runs a program of that tree
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1UL << 20)

static uint64_t state;

// splitmix64 (Steele, Lea, Flood 2014).
static uint64_t next(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

// Not to stdout: a line there tells init's `start` that memory has been filled.
static int fail(const char *what)
{
	fprintf(stderr, "LB fill %s: %s\n", what, strerror(errno));
	return 1;
}

static int stay(const char *what, size_t mib)
{
	printf("LB fill %s: %zu MiB\n", what, mib);
	fflush(stdout);
	while (pause())
		;
	return 0;
}

static void *memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(fail("mmap"));
	return p;
}

static int fill_random(size_t mib)
{
	uint64_t *p = memory(mib * MIB);

	for (size_t i = 0; i < mib * MIB / 8; i++)
		p[i] = next();
	return stay("random", mib);
}

static int fill_zero(size_t mib)
{
	volatile char *p = memory(mib * MIB);

	for (size_t i = 0; i < mib * MIB; i += 4096)
		p[i] = 0;
	return stay("zero", mib);
}

// What a cache or an interpreter keeps: objects of differing sizes with a header,
// pointers to others, counters, a time, a name of some words, some free room.
struct record {
	struct record *next, *parent;
	uint32_t refs, kind;
	uint64_t hash, stamp;
	double score;
	uint32_t len, flags;
	char name[];
};

static const char *const words[] = {
	"session", "user", "index", "order", "invoice", "cache", "path", "value", "customer",
	"request", "status", "pending", "complete", "failed", "retry", "backend", "frontend",
	"replica", "primary", "shard", "bucket", "object", "account", "balance", "token",
	"region", "west", "east", "north", "south", "temporary", "production", "staging",
};
#define WORDS (sizeof(words) / sizeof(words[0]))

static int fill_table(size_t mib)
{
	char *heap = memory(mib * MIB), *at = heap, *end = heap + mib * MIB;
	struct record *last = NULL, *root = NULL;
	uint64_t stamp = 1700000000000;

	while (at + sizeof(struct record) + 256 < end) {
		struct record *r = (struct record *)at;
		int n = 0, parts = 1 + (int)(next() % 6);

		for (int i = 0; i < parts; i++)
			n += sprintf(r->name + n, "%s%s", i ? "-" : "", words[next() % WORDS]);
		n += sprintf(r->name + n, "-%06llu", (unsigned long long)(next() % 1000000));
		r->next = last;
		r->parent = root;
		r->refs = 1 + (uint32_t)(next() % 4);
		r->kind = (uint32_t)(next() % 12);
		r->hash = next();
		r->stamp = stamp += next() % 5000;
		r->score = (double)(next() % 100000) / 100;
		r->len = (uint32_t)n;
		r->flags = next() % 8 ? 0 : 0x80000001;
		if (next() % 64 == 0)
			root = r;
		last = r;
		// Allocators round up and leave what was there before: zeros here.
		at += (sizeof(*r) + (size_t)n + 1 + 31) / 32 * 32 + (next() % 10 == 0) * 192;
	}
	return stay("table", mib);
}

static int fill_log(size_t mib, const char *path)
{
	FILE *f = fopen(path, "w");
	uint64_t ms = 0;

	if (!f)
		return fail(path);
	while ((size_t)ftell(f) < mib * MIB) {
		uint64_t a = next(), b = next();

		ms += a % 900;
		fprintf(f, "2026-03-%02u %02u:%02u:%02u.%03u host%u %s[%u]: %s %s id=%08x "
			"client=10.%u.%u.%u:%u %s=%u took %u us\n",
			(unsigned)(1 + ms / 86400000 % 28), (unsigned)(ms / 3600000 % 24),
			(unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60),
			(unsigned)(ms % 1000), (unsigned)(a >> 8 & 7), words[a >> 16 & 15],
			(unsigned)(1000 + (a >> 24 & 63)), words[(a >> 32) % WORDS],
			words[(a >> 40) % WORDS], (unsigned)b, (unsigned)(b >> 32 & 3),
			(unsigned)(b >> 34 & 255), (unsigned)(b >> 42 & 255),
			(unsigned)(1024 + (b >> 50 & 16383)), words[(a >> 48) % WORDS],
			(unsigned)(a >> 52 & 1023), (unsigned)(b % 70000));
	}
	fclose(f);
	printf("LB fill log: %zu MiB in %s\n", mib, path);
	return 0;
}

static size_t limit, done, files;
// Where files are copied to, or -1: they are read only.
static int out = -1;

static size_t free_mib(void)
{
	char line[128];
	size_t kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemFree: %zu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib / 1024;
}

// How much to read next, at most `most`.
static size_t room(size_t most)
{
	return out >= 0 && limit - done < most ? limit - done : most;
}

static int visit(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	static char buf[1 << 17];
	ssize_t n;
	int fd;

	(void)ftw;
	if (kind != FTW_F || !S_ISREG(st->st_mode) || st->st_size == 0)
		return 0;
	if (room(1) == 0)
		return 1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	while ((n = read(fd, buf, room(sizeof(buf)))) > 0) {
		done += (size_t)n;
		if (out >= 0 && write(out, buf, (size_t)n) != n)
			exit(fail("write"));
	}
	// Each file of the copy begins at a page, as it would as a file of its own.
	if (out >= 0)
		lseek(out, (lseek(out, 0, SEEK_CUR) + 4095) & ~4095L, SEEK_SET);
	close(fd);
	files++;
	return 0;
}

static int walk(char **dirs, int n)
{
	int ended = 0;

	for (int i = 0; i < n && !ended; i++)
		ended = nftw(dirs[i], visit, 32, FTW_PHYS);
	if (ended < 0)
		return fail("nftw");
	printf("LB fill %s: %zu MiB of %zu files, %zu MiB free\n", out < 0 ? "read" : "copy",
	       done / MIB, files, free_mib());
	return 0;
}

int main(int argc, char **argv)
{
	const char *order = argc > 2 ? argv[1] : "";
	size_t number = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	state = argc > 3 ? strtoull(argv[argc - 1], NULL, 10) : 0;
	if (!strcmp(order, "mount") && argc == 5) {
		mkdir(argv[3], 0755);
		if (mount(argv[2], argv[3], argv[4], MS_NOATIME, NULL))
			return fail(argv[2]);
		return 0;
	}
	if (!strcmp(order, "random"))
		return fill_random(number);
	if (!strcmp(order, "zero"))
		return fill_zero(number);
	if (!strcmp(order, "table"))
		return fill_table(number);
	if (!strcmp(order, "log") && argc == 5)
		return fill_log(number, argv[3]);
	if (!strcmp(order, "copy") && argc == 5) {
		limit = number * MIB;
		out = open(argv[4], O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
		return out < 0 ? fail(argv[4]) : walk(argv + 3, 1);
	}
	if (!strcmp(order, "read"))
		return walk(argv + 2, argc - 2);
	if (!strcmp(order, "chroot") && argc > 3) {
		if (chroot(argv[2]) || chdir("/"))
			return fail(argv[2]);
		setenv("PYTHONHASHSEED", "0", 1);
		execv(argv[3], argv + 3);
		return fail(argv[3]);
	}
	fprintf(stderr, "LB fill: no such order\n");
	return 2;
}
