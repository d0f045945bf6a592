// SPDX-License-Identifier: Apache-2.0
// PID 1 of the machine that is going to crash: a stock Debian kernel, this
// program, the victim and the image under test, and nothing else.
//
// It loads the modules of /lb/modules in the order of their names, links
// /dev/disk/by-partlabel/ as udev would, and then does what the host says, one
// order a line on the second serial port; the first one is left to the kernel.
// Every answer ends with a line "LB exit N". Orders:
//   exec PROG ARG...   run a program to its end, its output goes to the host
//   start PROG ARG...  run it until it prints a line, then leave it running
//   cat FILE           print a file
//   read FILE          read a file to its end, into the page cache, and keep it open:
//                      a block device's pages go with its last user
//   swapon FILE
//   crash              let a child write "c" to /proc/sysrq-trigger
//   kexec KERNEL INITRD COMMAND LINE...
//                      load a crash kernel without lifeboat's help
//   poweroff, reboot
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define CONTROL "/dev/ttyS1"
#define MODULES "/lb/modules"
#define MAX_ARGS 48

static void must_mount(const char *what, const char *where, const char *type)
{
	mkdir(where, 0755);
	if (mount(what, where, type, 0, NULL) && errno != EBUSY)
		perror(where);
}

// The second serial port becomes stdin, stdout and stderr: raw, no echo, so
// that a long order is not cut at the 4096 bytes of a canonical line.
static int open_control(void)
{
	struct termios t;
	int fd = open(CONTROL, O_RDWR | O_NOCTTY);

	if (fd < 0)
		return -1;
	tcgetattr(fd, &t);
	cfmakeraw(&t);
	cfsetspeed(&t, B115200);
	tcsetattr(fd, TCSANOW, &t);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	setvbuf(stdout, NULL, _IOLBF, 0);
	return 0;
}

static void load_modules(void)
{
	struct dirent **names;
	int n = scandir(MODULES, &names, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char path[512];
		int fd;

		if (names[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), MODULES "/%s", names[i]->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, fd, "", 0))
			printf("LB module %s: %s\n", names[i]->d_name, strerror(errno));
		close(fd);
	}
}

// One pass over sysfs; gives the number of named partitions.
static int link_partitions(void)
{
	DIR *dir = opendir("/sys/class/block");
	struct dirent *e;
	int found = 0;

	while (dir && (e = readdir(dir))) {
		char path[512], line[256], link[512], dev[300];
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/block/%s/uevent", e->d_name);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f)) {
			line[strcspn(line, "\n")] = 0;
			if (strncmp(line, "PARTNAME=", 9))
				continue;
			snprintf(link, sizeof(link), "/dev/disk/by-partlabel/%s", line + 9);
			snprintf(dev, sizeof(dev), "/dev/%s", e->d_name);
			unlink(link);
			found += symlink(dev, link) == 0;
		}
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int split(char *line, char **args)
{
	int n = 0;

	for (char *w = strtok(line, " "); w && n < MAX_ARGS - 1; w = strtok(NULL, " "))
		args[n++] = w;
	args[n] = NULL;
	return n;
}

static int run(char **args)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execv(args[0], args);
		perror(args[0]);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int start(char **args)
{
	int ends[2];
	char c = 0;

	if (pipe2(ends, O_CLOEXEC))
		return 126;
	if (fork() == 0) {
		dup2(ends[1], 1);
		execv(args[0], args);
		perror(args[0]);
		_exit(127);
	}
	close(ends[1]);
	while (c != '\n' && read(ends[0], &c, 1) == 1)
		putchar(c);
	close(ends[0]);
	return c == '\n' ? 0 : 1;
}

static int cat(const char *name, int print)
{
	char buf[4096];
	ssize_t n;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		perror(name);
		return 1;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (print)
			fwrite(buf, 1, (size_t)n, stdout);
	if (print)
		close(fd);
	return n < 0;
}

static int crash(void)
{
	printf("LB crashing\n");
	tcdrain(1);
	if (fork() == 0) {
		int fd = open("/proc/sysrq-trigger", O_WRONLY);

		prctl(PR_SET_NAME, "lb-crasher");
		if (write(fd, "c", 1) != 1)
			perror("sysrq-trigger");
		_exit(1);
	}
	wait(NULL);
	return 1;
}

static int load_crash_kernel(char **args, int n)
{
	char cmdline[2048] = "";
	int kernel = open(args[0], O_RDONLY | O_CLOEXEC);
	int initrd = open(args[1], O_RDONLY | O_CLOEXEC);

	for (int i = 2; i < n; i++) {
		strncat(cmdline, args[i], sizeof(cmdline) - strlen(cmdline) - 1);
		strncat(cmdline, " ", sizeof(cmdline) - strlen(cmdline) - 1);
	}
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(cmdline) + 1, cmdline,
		    (unsigned long)KEXEC_FILE_ON_CRASH)) {
		perror("kexec_file_load");
		return 1;
	}
	return 0;
}

static int obey(char *line)
{
	char *args[MAX_ARGS];
	int n = split(line, args);

	if (n == 0)
		return 2;
	if (!strcmp(args[0], "poweroff"))
		return reboot(RB_POWER_OFF);
	if (!strcmp(args[0], "reboot"))
		return reboot(RB_AUTOBOOT);
	if (!strcmp(args[0], "crash"))
		return crash();
	if (n < 2)
		return 2;
	if (!strcmp(args[0], "exec"))
		return run(args + 1);
	if (!strcmp(args[0], "start"))
		return start(args + 1);
	if (!strcmp(args[0], "cat"))
		return cat(args[1], 1);
	if (!strcmp(args[0], "read"))
		return cat(args[1], 0);
	if (!strcmp(args[0], "kexec") && n > 3)
		return load_crash_kernel(args + 1, n - 1);
	if (!strcmp(args[0], "swapon")) {
		int failed = swapon(args[1], 0);

		if (failed)
			perror(args[1]);
		return failed != 0;
	}
	return 2;
}

int main(void)
{
	static char line[16384];
	struct utsname uts;
	int waited = 0;

	must_mount("dev", "/dev", "devtmpfs");
	must_mount("proc", "/proc", "proc");
	must_mount("sys", "/sys", "sysfs");
	must_mount("run", "/run", "tmpfs");
	must_mount("tmp", "/tmp", "tmpfs");
	mkdir("/dev/disk", 0755);
	mkdir("/dev/disk/by-partlabel", 0755);
	setenv("PATH", "/bin", 1);
	if (open_control())
		perror(CONTROL);
	printf("LB booting\n");
	load_modules();
	// Disks appear a moment after their driver.
	while (link_partitions() < 2 && waited++ < 100)
		usleep(100000);
	uname(&uts);
	printf("LB ready %s\n", uts.release);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\r\n")] = 0;
		link_partitions();
		printf("LB exit %d\n", obey(line));
	}
	printf("LB lost the host\n");
	for (;;)
		pause();
}
