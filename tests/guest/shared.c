// SPDX-License-Identifier: Apache-2.0
// Shared memory of every kind, files mapped shared and privately, and a child that has
// the same pages.
//
// usage: shared TMPFS-FOLDER DISK-FOLDER
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include "live.h"

#define PROGRAM "shared"

static int file(const char *folder, const char *name, size_t pages)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	must(fd >= 0 && ftruncate(fd, (off_t)(pages * PAGE)) == 0, path);
	return fd;
}

// A file whose every page is named, as the disk has it, and in each fourth page of the
// mapping what this process wrote for itself.
static void private_file(const char *folder)
{
	size_t pages = 256;
	int fd = file(folder, "private", pages);
	uint8_t page[PAGE], *p;

	for (size_t n = 0; n < pages; n++) {
		fill_page(page, PROGRAM, "private", n / 8 * 8);
		must(write(fd, page, PAGE) == (ssize_t)PAGE, "write");
	}
	must(fsync(fd) == 0, "fsync");
	p = map(pages * PAGE, MAP_PRIVATE, fd);
	for (size_t n = 0; n < pages; n += 4)
		fill_page(p + n * PAGE, PROGRAM, "copied", n);
}

// Mapped once: pages with two owners are left alone by MADV_PAGEOUT.
static uint8_t *own(size_t pages, int flags, int fd, const char *region)
{
	uint8_t *p = map(pages * PAGE, flags, fd);

	fill(p, pages, PROGRAM, region);
	must(madvise(p, pages * PAGE, MADV_DONTFORK) == 0, "MADV_DONTFORK");
	return p;
}

// Each second page of the private region is its own, the rest is its parent's.
static void child_of(uint8_t *cow, size_t pages, int done)
{
	prctl(PR_SET_NAME, "shared-child");
	for (size_t n = 1; n < pages; n += 2)
		fill_page(cow + n * PAGE, PROGRAM, "child", n);
	must(write(done, "", 1) == 1, "pipe");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	uint8_t *p, *cow;
	int fd, id, ends[2];
	pid_t child;
	char more[64];

	must(argc == 3, "usage");
	id = shmget(IPC_PRIVATE, 4 * MIB, IPC_CREAT | 0600);
	p = shmat(id, NULL, 0);
	must(id >= 0 && p != (void *)-1, "shmat");
	fill(p, 1024, PROGRAM, "sysv");
	must(madvise(p, 4 * MIB, MADV_DONTFORK) == 0, "MADV_DONTFORK");
	own(1024, MAP_SHARED, file(argv[1], "tmpfs", 1024), "tmpfs");
	own(512, MAP_SHARED | MAP_ANONYMOUS, -1, "zero");
	fd = memfd_create(PROGRAM, MFD_CLOEXEC);
	must(fd >= 0 && ftruncate(fd, 4 * MIB) == 0, "memfd");
	fill(map(4 * MIB, MAP_SHARED, fd), 1024, PROGRAM, "memfd");
	p = map(MIB, MAP_SHARED, file(argv[2], "shared", 256));
	fill(p, 256, PROGRAM, "disk");
	// Stays in the page cache, whatever the kernel takes from there.
	must(mlock(p, MIB) == 0, "mlock");
	private_file(argv[2]);
	cow = small(1024, PROGRAM, "cow");
	must(pipe(ends) == 0, "pipe");
	child = fork();
	must(child >= 0, "fork");
	if (child == 0)
		child_of(cow, 1024, ends[1]);
	must(read(ends[0], more, 1) == 1, "the child");
	snprintf(more, sizeof(more), " child=%x", child);
	ready(PROGRAM, more);
	for (;;)
		pause();
}
