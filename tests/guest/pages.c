// SPDX-License-Identifier: Apache-2.0
// Makes pages of every kind that a page filter tells apart, prints one line of facts
// and sleeps with all of them.
//
// usage: pages EXT4-DEVICE
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define MIB (1UL << 20)
#define HUGE (2 * MIB)
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

static uint64_t state = 0x5eed;

// splitmix64 (Steele, Lea, Flood 2014): no two pages alike, none zero.
static void fill(void *at, size_t len)
{
	uint64_t *p = at;

	for (size_t i = 0; i < len / 8; i++) {
		uint64_t z = state += 0x9e3779b97f4a7c15;

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
		p[i] = z ^ (z >> 31);
	}
}

static void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("LB pages: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *map(size_t len, int flags, int fd)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	must(p != MAP_FAILED, "mmap");
	return p;
}

static void *anon(size_t len)
{
	return map(len, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, text, strlen(text)) > 0, path);
	close(fd);
}

static uint64_t pfn_of(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	must(pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) == 8, "pagemap");
	close(fd);
	return entry & ((1ULL << 55) - 1);
}

// As much memory as this is to be found; less will do.
static void reclaim(const char *bytes)
{
	int fd;

	mkdir("/cgroup", 0755);
	must(mount("cgroup", "/cgroup", "cgroup2", 0, NULL) == 0, "cgroup2");
	fd = open("/cgroup/memory.reclaim", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, bytes, strlen(bytes)) < 0)
		fprintf(stderr, "LB pages: memory.reclaim: %s\n", strerror(errno));
	close(fd);
}

// Anonymous memory in small pages and a huge one, locked, given back lazily, merged
// by KSM, swapped out and half of it back by read-ahead.
static void *anonymous(void)
{
	char *small = anon(8 * MIB), *big = anon(4 * HUGE), *lazy = anon(2 * MIB);
	char *locked = anon(MIB), *same = anon(2 * MIB), *swapped = anon(4 * MIB);
	volatile char sum = 0;

	big = (char *)(((uintptr_t)big + HUGE - 1) / HUGE * HUGE);
	madvise(big, 2 * HUGE, MADV_HUGEPAGE);
	fill(small, 8 * MIB);
	fill(big, 2 * HUGE);
	fill(lazy, 2 * MIB);
	madvise(lazy, 2 * MIB, MADV_FREE);
	fill(locked, MIB);
	must(mlock(locked, MIB) == 0, "mlock");
	for (size_t i = 0; i < 2 * MIB; i++)
		same[i] = (char)(i % PAGE * 7 + 1);
	madvise(same, 2 * MIB, MADV_MERGEABLE);
	put("/sys/kernel/mm/ksm/pages_to_scan", "2000");
	put("/sys/kernel/mm/ksm/run", "1");
	madvise(swapped, 4 * MIB, MADV_NOHUGEPAGE);
	fill(swapped, 4 * MIB);
	// What was written stays in the swap cache until somebody needs memory.
	for (int i = 0; i < 5; i++) {
		madvise(swapped, 4 * MIB, MADV_PAGEOUT);
		usleep(50000);
	}
	reclaim("24M");
	// In order, so that read-ahead brings more than is touched.
	for (size_t i = 0; i < 3 * MIB; i += i % (64 * PAGE) < 20 * PAGE ? PAGE : 44 * PAGE)
		sum += swapped[i];
	return small;
}

static void shared(void)
{
	int fd = memfd_create("pages", MFD_CLOEXEC), file;
	int id = shmget(IPC_PRIVATE, 4 * MIB, IPC_CREAT | 0600);
	static char some[MIB];

	must(ftruncate(fd, 8 * MIB) == 0, "memfd");
	fill(map(8 * MIB, MAP_SHARED, fd), 8 * MIB);
	fill(shmat(id, NULL, 0), 4 * MIB);
	mkdir("/huge", 0755);
	must(mount("huge", "/huge", "tmpfs", 0, "huge=always") == 0, "tmpfs");
	file = open("/huge/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	for (int i = 0; i < 6; i++) {
		fill(some, MIB);
		must(write(file, some, MIB) == (ssize_t)MIB, "tmpfs");
	}
}

static void hugetlb(void)
{
	put("/proc/sys/vm/nr_hugepages", "8");
	fill(map(4 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1), 4 * HUGE);
}

// Files: written ones keep buffers of the journal (PG_private), read ones do not, the
// last ones are dirty. Directories and inodes come by themselves.
static void files(const char *device)
{
	static char some[MIB];
	char name[64];
	int fd;

	mkdir("/mnt", 0755);
	must(mount(device, "/mnt", "ext4", 0, "data=journal") == 0, device);
	for (int n = 0; n < 24; n++) {
		snprintf(name, sizeof(name), "/mnt/file%d", n);
		fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		fill(some, MIB);
		must(write(fd, some, MIB) == (ssize_t)MIB, name);
		if (n == 11) {
			sync();
			put("/proc/sys/vm/drop_caches", "1");
		}
		close(fd);
	}
	for (int n = 0; n < 10; n++) {
		snprintf(name, sizeof(name), "/mnt/file%d", n);
		fd = open(name, O_RDONLY | O_CLOEXEC);
		must(read(fd, some, MIB) == (ssize_t)MIB, name);
		close(fd);
	}
	fd = open(device, O_RDONLY | O_CLOEXEC);
	must(read(fd, some, MIB) == (ssize_t)MIB, device);
}

// Frame of a page that the kernel takes for faulty. Its owner may be killed for it.
// Kernels without CONFIG_MEMORY_FAILURE refuse: 0 is told then.
static uint64_t poison(void)
{
	uint64_t *told = map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
	pid_t child = fork();

	if (child == 0) {
		char *page = anon(PAGE);

		fill(page, PAGE);
		*told = pfn_of(page);
		if (madvise(page, PAGE, MADV_HWPOISON))
			*told = 0;
		_exit(0);
	}
	must(waitpid(child, NULL, 0) == child, "fork");
	return *told;
}

int main(int argc, char **argv)
{
	static char some[64 * 1024];
	char *small;
	uint64_t poisoned, soft;
	int ends[2];

	must(argc == 2, "usage");
	small = anonymous();
	fprintf(stderr, "LB pages: anonymous done\n");
	shared();
	fprintf(stderr, "LB pages: shared done\n");
	hugetlb();
	fprintf(stderr, "LB pages: hugetlb done\n");
	files(argv[1]);
	fprintf(stderr, "LB pages: files done\n");
	must(pipe(ends) == 0, "pipe");
	fill(some, sizeof(some));
	must(write(ends[1], some, sizeof(some) / 2) > 0, "pipe");
	poisoned = poison();
	soft = pfn_of(small + 9 * PAGE);
	if (madvise(small + 9 * PAGE, PAGE, MADV_SOFT_OFFLINE))
		soft = 0;
	printf("LB pages poisoned=0x%lx offlined=0x%lx pid=%d\n", poisoned, soft, getpid());
	fflush(stdout);
	for (;;)
		pause();
}
