// SPDX-License-Identifier: Apache-2.0
// Says what processes have in memory, page by page, right before their machine dies, and
// sends pages to where they are to be found. The processes are stopped all the while, so
// what was read once stays true: contents are read first, while everything is in memory,
// then pages are sent away, and at last only their state is asked for, which brings
// nothing back.
//
//   put FILE TEXT                  writes a word to a file, as a shell would
//   enter DIR PROG ARG...          runs a program in a new group, before it takes memory
//   stop PID...                    stops them, waits until every thread stands still
//   watch FILE PID...              contents of all pages that are there, hashed; adds to FILE
//   pageout PID ADDR LEN           asks the kernel to take these pages away (hexadecimal)
//   pageout PID NAME               the same for all areas of this name, such as [stack]
//   touch PID ADDR LEN STEP        reads each STEP-th page: it and its neighbours come back
//   reclaim DIR BYTES              lets a group give back memory
//   swapfile FILE MIB OTHER        a swap file in pieces: OTHER grows in between
//   mkswap DEVICE
//   sync DIR                       writes a file system out
//   swapon FILE PRIORITY
//   write DEVICE FILE PID...       the record: state of every page, hashes of `watch`
//
// The record is text, a word after another, numbers in hexadecimal:
//   swap NAME TYPE SIZE USED PRIORITY   (line by line as in /proc/swaps)
//   process PID, stat LINE, smaps KEY KB (the sum over all areas)
//   area START END PERMISSIONS OFFSET DEVICE INODE NAME
//   page ADDRESS STATE PAGEMAP HASH   state: P present, S swapped, C in the page cache
//                                     only, N none of these; HASH is - if it was not
//                                     there to be read, ! if it could not be read
//   end
// Pages of an area that has nothing of them are left out.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096UL
#define MIB (1UL << 20)
#define PRESENT (1ULL << 63)
#define SWAPPED (1ULL << 62)
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct area {
	unsigned long start, end, offset, inode;
	char perms[8], dev[16], name[256];
};

static void die(const char *what)
{
	fprintf(stderr, "LB record: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_of(const char *pid, const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

static FILE *read_of(const char *pid, const char *name)
{
	return fdopen(open_of(pid, name, O_RDONLY), "r");
}

// Next area of /proc/PID/maps; 0 at the end.
static int next_area(FILE *maps, struct area *a)
{
	char line[512];
	int at = 0;

	if (!fgets(line, sizeof(line), maps))
		return 0;
	line[strcspn(line, "\n")] = 0;
	if (sscanf(line, "%lx-%lx %7s %lx %15s %lu %n", &a->start, &a->end, a->perms, &a->offset,
		   a->dev, &a->inode, &at) != 6) {
		errno = EINVAL;
		die(line);
	}
	snprintf(a->name, sizeof(a->name), "%s", line + at);
	return 1;
}

// Words are mixed in turn by splitmix64's output function (Steele, Lea, Flood 2014).
static uint64_t hash(const uint64_t *page)
{
	uint64_t h = 0;

	for (size_t i = 0; i < PAGE / 8; i++) {
		h = (h ^ page[i]) + 0x9e3779b97f4a7c15ULL;
		h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
		h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
		h ^= h >> 31;
	}
	return h;
}

static int is_huge(const struct area *a)
{
	return strstr(a->name, "anon_hugepage") || strstr(a->name, "memfd:huge");
}

// Private memory that nobody touched, and huge pages, are left alone: a look would make
// pages. What a file or shared memory has is brought in.
static int worth_a_look(const struct area *a, uint64_t entry)
{
	if (entry & (PRESENT | SWAPPED))
		return 1;
	return a->inode != 0 && !is_huge(a);
}

static void watch_area(FILE *out, const char *pid, const struct area *a, int pagemap, int mem)
{
	static uint64_t page[PAGE / 8];

	for (unsigned long at = a->start; at < a->end; at += PAGE) {
		uint64_t entry = 0;

		if (pread(pagemap, &entry, 8, (off_t)(at / PAGE * 8)) != 8)
			break;
		if (!strcmp(a->name, "[vdso]")) {
			// The same for all: its own is looked at, and theirs stays untouched.
			const char *own = (const char *)getauxval(AT_SYSINFO_EHDR) + (at - a->start);

			memcpy(page, own, PAGE);
			fprintf(out, "%s %lx %016lx\n", pid, at, (unsigned long)hash(page));
			continue;
		}
		if (!worth_a_look(a, entry))
			continue;
		if (pread(mem, page, PAGE, (off_t)at) == (ssize_t)PAGE)
			fprintf(out, "%s %lx %016lx\n", pid, at, (unsigned long)hash(page));
		else
			fprintf(out, "%s %lx !\n", pid, at);
	}
}

static int watch(const char *file, char **pids)
{
	FILE *out = fopen(file, "ae");

	if (!out)
		die(file);
	for (; *pids; pids++) {
		FILE *maps = read_of(*pids, "maps");
		int pagemap = open_of(*pids, "pagemap", O_RDONLY);
		int mem = open_of(*pids, "mem", O_RDONLY);
		struct area a;

		while (next_area(maps, &a))
			// The page of old system calls lies above what pread(2) can name.
			if (a.start >> 63 == 0)
				watch_area(out, *pids, &a, pagemap, mem);
		fclose(maps);
		close(pagemap);
		close(mem);
	}
	return fclose(out) ? 1 : 0;
}

struct seen {
	unsigned long pid, at;
	char hash[20];
};

static struct seen *seen;
static size_t count;

static void load_seen(const char *file)
{
	FILE *in = fopen(file, "re");
	size_t room = 0;
	struct seen s;

	if (!in)
		die(file);
	while (fscanf(in, "%lu %lx %19s", &s.pid, &s.at, s.hash) == 3) {
		if (count == room) {
			room = room ? room * 2 : 1 << 16;
			seen = realloc(seen, room * sizeof(s));
			if (!seen)
				die("memory");
		}
		seen[count++] = s;
	}
	fclose(in);
}

// `watch` wrote them process by process, ascending.
static const char *hash_of(unsigned long pid, unsigned long at, size_t *hint)
{
	while (*hint < count && seen[*hint].pid == pid && seen[*hint].at < at)
		++*hint;
	if (*hint < count && seen[*hint].pid == pid && seen[*hint].at == at)
		return seen[*hint].hash;
	return "-";
}

static size_t first_of(unsigned long pid)
{
	size_t i = 0;

	while (i < count && seen[i].pid != pid)
		i++;
	return i;
}

// Which pages of the area's file are in the page cache; NULL: it has none, or it cannot
// be asked. A mapping of huge pages would take some of its own.
static unsigned char *cached(const char *pid, const struct area *a)
{
	char path[128];
	size_t len = a->end - a->start;
	unsigned char *out;
	void *p;
	int fd;

	if (a->inode == 0 || is_huge(a))
		return NULL;
	snprintf(path, sizeof(path), "/proc/%s/map_files/%lx-%lx", pid, a->start, a->end);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)a->offset);
	close(fd);
	if (p == MAP_FAILED)
		return NULL;
	out = calloc(1, len / PAGE);
	if (!out || mincore(p, len, out)) {
		free(out);
		out = NULL;
	}
	munmap(p, len);
	return out;
}

static void write_area(FILE *out, const char *pid, const struct area *a, int pagemap, size_t *hint)
{
	unsigned char *in_cache = cached(pid, a);
	unsigned long number = strtoul(pid, NULL, 10);

	fprintf(out, "area %lx %lx %s %lx %s %lx %s\n", a->start, a->end, a->perms, a->offset,
		a->dev, a->inode, a->name);
	for (unsigned long at = a->start; at < a->end && a->start >> 63 == 0; at += PAGE) {
		const char *known = hash_of(number, at, hint);
		uint64_t entry = 0;
		char state = 'N';

		if (pread(pagemap, &entry, 8, (off_t)(at / PAGE * 8)) != 8)
			break;
		if (entry & PRESENT)
			state = 'P';
		else if (entry & SWAPPED)
			state = 'S';
		else if (in_cache && in_cache[(at - a->start) / PAGE] & 1)
			state = 'C';
		if (state != 'N' || strcmp(known, "-"))
			fprintf(out, "page %lx %c %lx %s\n", at, state, (unsigned long)entry, known);
	}
	free(in_cache);
}

static void copy_text(FILE *out, FILE *in, const char *before)
{
	char line[1024];

	while (fgets(line, sizeof(line), in)) {
		line[strcspn(line, "\n")] = 0;
		fprintf(out, "%s %s\n", before, line);
	}
	fclose(in);
}

static int write_record(const char *device, const char *file, char **pids)
{
	FILE *out = fopen(device, "r+e");

	if (!out)
		die(device);
	load_seen(file);
	copy_text(out, fopen("/proc/swaps", "re"), "swap");
	for (; *pids; pids++) {
		size_t hint = first_of(strtoul(*pids, NULL, 10));
		int pagemap = open_of(*pids, "pagemap", O_RDONLY);
		FILE *maps = read_of(*pids, "maps");
		struct area a;

		fprintf(out, "process %s\n", *pids);
		copy_text(out, read_of(*pids, "stat"), "stat");
		copy_text(out, read_of(*pids, "smaps_rollup"), "smaps");
		while (next_area(maps, &a))
			write_area(out, *pids, &a, pagemap, &hint);
		fclose(maps);
		close(pagemap);
	}
	fprintf(out, "end\n");
	if (fflush(out) || fsync(fileno(out)))
		die(device);
	printf("LB record %ld bytes, %zu pages with known contents\n", ftell(out), count);
	return fclose(out) ? 1 : 0;
}

// Takes a range from a process in steps: the kernel may refuse a large one half-way.
static int pageout(const char *pid, unsigned long at, unsigned long len)
{
	int fd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
	unsigned long end = at + len;

	if (fd < 0)
		die("pidfd_open");
	while (at < end) {
		struct iovec part = { (void *)at, end - at < MIB ? end - at : MIB };
		long done = syscall(SYS_process_madvise, fd, &part, 1UL, MADV_PAGEOUT, 0);

		if (done < 0)
			die("process_madvise");
		at += part.iov_len;
	}
	close(fd);
	return 0;
}

static int pageout_named(const char *pid, const char *name)
{
	FILE *maps = read_of(pid, "maps");
	struct area a;
	int found = 0;

	while (next_area(maps, &a))
		if (!strcmp(a.name, name)) {
			found = 1;
			pageout(pid, a.start, a.end - a.start);
		}
	fclose(maps);
	return !found;
}

static int touch(const char *pid, unsigned long at, unsigned long len, unsigned long step)
{
	int mem = open_of(pid, "mem", O_RDONLY);
	char some[8];

	for (unsigned long n = 0; n < len; n += step * PAGE)
		if (pread(mem, some, sizeof(some), (off_t)(at + n)) < 0)
			die("/proc/PID/mem");
	close(mem);
	return 0;
}

// State letter of a thread: behind the name, which may hold anything but ends with ')'.
static char state_of(const char *pid, const char *thread)
{
	char name[64], line[512] = "";
	const char *behind;
	FILE *f;

	snprintf(name, sizeof(name), "task/%.20s/stat", thread);
	f = read_of(pid, name);
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	behind = strrchr(line, ')');
	return behind && behind[1] ? behind[2] : '?';
}

static int all_stopped(const char *pid)
{
	char path[64];
	struct dirent *e;
	int all = 1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	dir = opendir(path);
	if (!dir)
		die(path);
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			all &= state_of(pid, e->d_name) == 'T';
	closedir(dir);
	return all;
}

static int stop(char **pids)
{
	for (char **p = pids; *p; p++)
		if (kill(atoi(*p), SIGSTOP))
			die(*p);
	for (char **p = pids; *p; p++)
		for (int i = 0; !all_stopped(*p); i++) {
			if (i == 200) {
				fprintf(stderr, "LB record: %s does not stop\n", *p);
				return 1;
			}
			usleep(10000);
		}
	return 0;
}

static int put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(file);
	close(fd);
	return 0;
}

static int enter(const char *dir, char **args)
{
	char file[256];

	if (mkdir(dir, 0755) && errno != EEXIST)
		die(dir);
	snprintf(file, sizeof(file), "%s/cgroup.procs", dir);
	put(file, "0");
	execv(args[0], args);
	die(args[0]);
	return 1;
}

// Less than was asked for is no failure (EAGAIN).
static int reclaim(const char *dir, const char *bytes)
{
	char file[256];
	int fd;

	snprintf(file, sizeof(file), "%s/memory.reclaim", dir);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		die(file);
	if (write(fd, bytes, strlen(bytes)) < 0 && errno != EAGAIN)
		die(file);
	close(fd);
	return 0;
}

// The header of mkswap(8): version 1, last page, a UUID, the magic at the page's end.
static int make_swap(int fd, unsigned long bytes)
{
	static uint32_t page[PAGE / 4];

	page[256] = 1;
	page[257] = (uint32_t)(bytes / PAGE - 1);
	for (int i = 0; i < 4; i++)
		page[259 + i] = 0x4c424f41u * (unsigned)(i + 1) ^ (uint32_t)bytes;
	memcpy((char *)page + PAGE - 10, "SWAPSPACE2", 10);
	if (pwrite(fd, page, PAGE, 0) != (ssize_t)PAGE || fsync(fd))
		die("the swap header");
	return 0;
}

static void grow(int fd, char with)
{
	static char some[MIB];

	memset(some, with, sizeof(some));
	for (int i = 0; i < 4; i++)
		if (write(fd, some, sizeof(some)) != (ssize_t)sizeof(some))
			die("write");
	if (fsync(fd))
		die("fsync");
}

static int swapfile(const char *path, unsigned long mib, const char *other)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int between = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct fiemap map = { .fm_length = FIEMAP_MAX_OFFSET, .fm_flags = FIEMAP_FLAG_SYNC };

	if (fd < 0 || between < 0)
		die(path);
	for (unsigned long done = 0; done < mib; done += 4) {
		grow(fd, 0);
		grow(between, 1);
	}
	make_swap(fd, mib * MIB);
	if (ioctl(fd, FS_IOC_FIEMAP, &map))
		die("FIEMAP");
	printf("LB record %s: %u extents\n", path, map.fm_mapped_extents);
	close(between);
	return close(fd);
}

static int make_swap_device(const char *device)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);
	uint64_t bytes = 0;

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		die(device);
	make_swap(fd, bytes);
	return close(fd);
}

static int swap_on(const char *file, int priority)
{
	int flags = SWAP_FLAG_PREFER | (priority << SWAP_FLAG_PRIO_SHIFT & SWAP_FLAG_PRIO_MASK);

	if (swapon(file, flags))
		die(file);
	return 0;
}

static unsigned long hex(const char *text)
{
	return strtoul(text, NULL, 16);
}

int main(int argc, char **argv)
{
	const char *order = argc > 2 ? argv[1] : "";

	if (!strcmp(order, "put") && argc == 4)
		return put(argv[2], argv[3]);
	if (!strcmp(order, "enter") && argc > 3)
		return enter(argv[2], argv + 3);
	if (!strcmp(order, "stop"))
		return stop(argv + 2);
	if (!strcmp(order, "watch") && argc > 3)
		return watch(argv[2], argv + 3);
	if (!strcmp(order, "pageout") && argc == 5)
		return pageout(argv[2], hex(argv[3]), hex(argv[4]));
	if (!strcmp(order, "pageout") && argc == 4)
		return pageout_named(argv[2], argv[3]);
	if (!strcmp(order, "touch") && argc == 6)
		return touch(argv[2], hex(argv[3]), hex(argv[4]), hex(argv[5]));
	if (!strcmp(order, "reclaim") && argc == 4)
		return reclaim(argv[2], argv[3]);
	if (!strcmp(order, "swapfile") && argc == 5)
		return swapfile(argv[2], strtoul(argv[3], NULL, 10), argv[4]);
	if (!strcmp(order, "mkswap"))
		return make_swap_device(argv[2]);
	if (!strcmp(order, "sync"))
		return syncfs(open(argv[2], O_RDONLY | O_CLOEXEC));
	if (!strcmp(order, "swapon") && argc == 4)
		return swap_on(argv[2], atoi(argv[3]));
	if (!strcmp(order, "write") && argc > 4)
		return write_record(argv[2], argv[3], argv + 4);
	fprintf(stderr, "LB record: no such order\n");
	return 2;
}
