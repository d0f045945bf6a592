// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/oldmem - the memory of the crashed kernel, by physical address
 *
 * Linux had a /dev/oldmem until commit 987bf6fe3b14 ("/dev/oldmem: Remove the
 * interface"). This one serves a capture program that must go on when memory
 * is bad: it touches nothing but what the elfcorehdr calls old RAM, copies
 * with machine-check recovery, and tells exactly which page cannot be read.
 *
 * Names used below:
 *   phys   physical address as user space gives it, the file position
 *   src    physical address where those bytes lie now; differs from phys only
 *          where kexec-tools saved a part of memory to a backup region
 *   own    System RAM of this, the crash kernel
 */

#define pr_fmt(fmt) "oldmem: " fmt

#include <linux/capability.h>
#include <linux/cc_platform.h>
#include <linux/crash_dump.h>
#include <linux/elf.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/printk.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <uapi/linux/oldmem.h>

/*
 * With 2 MiB mappings a window needs one page of page table; small pages
 * (unaligned edges, mixed memory types) need at most eight.
 */
#define OLDMEM_WINDOW		SZ_16M
/*
 * Enough for every header that kexec builds: x86 production kernels are
 * limited to CONFIG_CRASH_MAX_MEMORY_RANGES, 8192 by default, plus a note per
 * CPU. PN_XNUM, the end of the 16-bit e_phnum, is the natural limit.
 */
#define OLDMEM_MAX_PHDRS	(PN_XNUM - 1)
#define OLDMEM_MAX_RANGES	(2 * PN_XNUM)
#define OLDMEM_MAX_BAD		256
#define OLDMEM_MAX_FAULTS	32
#define OLDMEM_PHDR_BATCH	32

struct oldmem_range {
	u64 start;	/* phys, first byte */
	u64 end;	/* phys, one behind the last byte */
	u64 src;	/* where the byte at start lies now */
};

struct oldmem_ranges {
	struct oldmem_range *r;
	unsigned int nr;
	unsigned int max;
};

/* One per open file, so that one descriptor per thread gives parallelism. */
struct oldmem_file {
	struct mutex lock;	/* over the fields below */
	void *map;
	u64 map_start;	/* src */
	u64 map_end;
	bool map_encrypted;
};

/* All of these are written at boot only. */
static int oldmem_status = -ENODEV;
static struct oldmem_ranges ram;
static struct oldmem_range hdr;
static u64 ram_bytes;
static unsigned int skipped_phdrs;

/*
 * Pages (phys >> PAGE_SHIFT) never to be touched (again): a machine check may
 * be survivable once and deadly when repeated. Append-only: a reader looks at
 * the count first and needs no lock.
 */
static DEFINE_MUTEX(bad_lock);
static unsigned int bad_nr;
static u64 bad_pfn[OLDMEM_MAX_BAD];
static atomic_t bad_total = ATOMIC_INIT(0);

static unsigned long long fault[OLDMEM_MAX_FAULTS];
static unsigned int fault_nr;
module_param_array(fault, ullong, &fault_nr, 0400);
MODULE_PARM_DESC(fault, "Physical addresses whose pages read as bad (test)");

static bool oldmem_page_is_bad(u64 phys)
{
	/* Pairs with the release in oldmem_mark_bad(). */
	unsigned int i, nr = smp_load_acquire(&bad_nr);

	for (i = 0; i < nr; i++)
		if (bad_pfn[i] == phys >> PAGE_SHIFT)
			return true;
	return false;
}

static void oldmem_mark_bad(u64 phys)
{
	mutex_lock(&bad_lock);
	/* Two descriptors may find the same page at the same time. */
	if (!oldmem_page_is_bad(phys)) {
		atomic_inc(&bad_total);
		if (bad_nr < OLDMEM_MAX_BAD) {
			bad_pfn[bad_nr] = phys >> PAGE_SHIFT;
			/* The entry is seen before the count is. */
			smp_store_release(&bad_nr, bad_nr + 1);
		}
	}
	mutex_unlock(&bad_lock);
}

/* The range that holds phys, or the first one above it. */
static unsigned int oldmem_lower_bound(u64 phys)
{
	unsigned int lo = 0, hi = ram.nr;

	while (lo < hi) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (ram.r[mid].end <= phys)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static const struct oldmem_range *oldmem_find(u64 phys)
{
	unsigned int i = oldmem_lower_bound(phys);

	if (i < ram.nr && ram.r[i].start <= phys)
		return &ram.r[i];
	if (phys >= hdr.start && phys < hdr.end)
		return &hdr;
	return NULL;
}

static void oldmem_unmap(struct oldmem_file *of)
{
	if (of->map)
		iounmap((void __iomem *)of->map);
	of->map = NULL;
}

static bool oldmem_map(struct oldmem_file *of, u64 start, u64 end,
		       bool encrypted)
{
	void __iomem *map;

	if (encrypted)
		map = ioremap_encrypted(start, end - start);
	else
		map = ioremap_cache(start, end - start);
	if (!map)
		return false;
	of->map = (__force void *)map;
	of->map_start = start;
	of->map_end = end;
	of->map_encrypted = encrypted;
	return true;
}

/*
 * Make src readable. The window never reaches over the pages of its range, so
 * neither holes nor MMIO are mapped: even speculation cannot touch them.
 */
static void *oldmem_window(struct oldmem_file *of,
			   const struct oldmem_range *r, u64 src)
{
	/*
	 * The kexec code of an SEV guest writes the elfcorehdr through its
	 * encrypted mapping, that of an SME host does not: same rule as in
	 * elfcorehdr_read(), arch/x86/kernel/crash_dump_64.c.
	 */
	bool encrypted = cc_platform_has(r == &hdr ? CC_ATTR_GUEST_MEM_ENCRYPT :
						     CC_ATTR_MEM_ENCRYPT);
	u64 start, end;

	if (of->map && src >= of->map_start && src < of->map_end &&
	    of->map_encrypted == encrypted)
		return of->map + (src - of->map_start);

	oldmem_unmap(of);

	start = round_down(src, OLDMEM_WINDOW);
	end = start + OLDMEM_WINDOW;
	start = max_t(u64, start, round_down(r->src, PAGE_SIZE));
	end = min_t(u64, end, round_up(r->src + (r->end - r->start), PAGE_SIZE));

	/*
	 * A window can fail as a whole, for example on conflicting memory
	 * types within it. Then go page by page.
	 */
	if (!oldmem_map(of, start, end, encrypted)) {
		start = round_down(src, PAGE_SIZE);
		if (!oldmem_map(of, start, start + PAGE_SIZE, encrypted))
			return NULL;
	}
	return of->map + (src - of->map_start);
}

static ssize_t oldmem_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct oldmem_file *of = iocb->ki_filp->private_data;
	const struct oldmem_range *r = NULL;
	u64 phys = iocb->ki_pos;
	ssize_t done = 0;
	int err = 0;

	if (!iov_iter_count(to))
		return 0;
	if (mutex_lock_killable(&of->lock))
		return -EINTR;

	while (iov_iter_count(to)) {
		size_t len, copied;
		void *from;
		u64 src;

		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		if (!r || phys >= r->end) {
			const struct oldmem_range *last = r;

			r = oldmem_find(phys);
			/*
			 * The elfcorehdr often lies right behind old RAM. It
			 * is not a part of it: one read gives one of the two.
			 */
			if (!r || (last && (last == &hdr) != (r == &hdr))) {
				err = -ENXIO;
				break;
			}
		}
		if (oldmem_page_is_bad(phys)) {
			err = -EIO;
			break;
		}

		src = r->src + (phys - r->start);
		from = oldmem_window(of, r, src);
		if (!from) {
			err = -ENOMEM;
			break;
		}

		/* Page by page, so that a failure names its page. */
		len = min_t(u64, r->end - phys, PAGE_SIZE - offset_in_page(src));
		len = min(len, iov_iter_count(to));
		copied = _copy_mc_to_iter(from, len, to);
		if (copied != len) {
			/*
			 * Either the destination cannot be written or the
			 * source gave a machine check. Ask the destination:
			 * touching the source again is what must not be done.
			 */
			iov_iter_revert(to, copied);
			if (fault_in_iov_iter_writeable(to, len)) {
				err = -EFAULT;
			} else {
				oldmem_mark_bad(phys);
				pr_warn_ratelimited("bad page at %#llx\n",
						    round_down(phys, PAGE_SIZE));
				err = -EIO;
			}
			break;
		}
		phys += len;
		done += len;
		cond_resched();
	}

	mutex_unlock(&of->lock);
	iocb->ki_pos = phys;
	return done ?: err;
}

static loff_t oldmem_llseek(struct file *file, loff_t off, int whence)
{
	u64 top = ram.nr ? ram.r[ram.nr - 1].end : 0;
	unsigned int i;
	u64 pos;

	switch (whence) {
	case SEEK_DATA:
	case SEEK_HOLE:
		if (off < 0 || off >= top)
			return -ENXIO;
		i = oldmem_lower_bound(off);
		pos = max_t(u64, off, ram.r[i].start);
		if (whence == SEEK_HOLE) {
			/* Neighbours may touch and differ in src only. */
			if (pos == off)
				pos = ram.r[i++].end;
			else
				pos = off;
			while (pos != off && i < ram.nr && ram.r[i].start == pos)
				pos = ram.r[i++].end;
		}
		return vfs_setpos(file, pos, LLONG_MAX);
	default:
		return generic_file_llseek_size(file, off, whence, LLONG_MAX, top);
	}
}

static long oldmem_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct oldmem_info info = {
		.version	 = OLDMEM_VERSION,
		.elfcorehdr_addr = hdr.start,
		.elfcorehdr_size = hdr.end - hdr.start,
		.ram_bytes	 = ram_bytes,
		.ram_ranges	 = ram.nr,
		.window_bytes	 = OLDMEM_WINDOW,
		.bad_pages	 = atomic_read(&bad_total),
		.skipped_phdrs	 = skipped_phdrs,
	};

	if (cmd != OLDMEM_GET_INFO)
		return -ENOTTY;
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		info.flags |= OLDMEM_F_ENCRYPTED;
	if (fault_nr)
		info.flags |= OLDMEM_F_INJECTED;
	if (copy_to_user((void __user *)arg, &info, sizeof(info)))
		return -EFAULT;
	return 0;
}

static int oldmem_open(struct inode *inode, struct file *file)
{
	struct oldmem_file *of;

	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	if (file->f_mode & FMODE_WRITE)
		return -EACCES;
	if (!is_kdump_kernel())
		return -ENODEV;
	if (oldmem_status)
		return oldmem_status;

	of = kzalloc(sizeof(*of), GFP_KERNEL);
	if (!of)
		return -ENOMEM;
	mutex_init(&of->lock);
	file->private_data = of;
	return 0;
}

static int oldmem_release(struct inode *inode, struct file *file)
{
	struct oldmem_file *of = file->private_data;

	oldmem_unmap(of);
	kfree(of);
	return 0;
}

static const struct file_operations oldmem_fops = {
	.owner		= THIS_MODULE,
	.open		= oldmem_open,
	.release	= oldmem_release,
	.read_iter	= oldmem_read_iter,
	.llseek		= oldmem_llseek,
	.unlocked_ioctl	= oldmem_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct miscdevice oldmem_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "oldmem",
	.mode	= 0400,
	.fops	= &oldmem_fops,
};

static int __init oldmem_add(struct oldmem_ranges *l, u64 start, u64 end, u64 src)
{
	if (l->nr == l->max) {
		unsigned int max = l->max ? 2 * l->max : 32;
		struct oldmem_range *r;

		if (max > 2 * OLDMEM_MAX_RANGES)
			return -E2BIG;
		r = kvrealloc(l->r, array_size(max, sizeof(*r)), GFP_KERNEL);
		if (!r)
			return -ENOMEM;
		l->r = r;
		l->max = max;
	}
	l->r[l->nr++] = (struct oldmem_range){ start, end, src };
	return 0;
}

static void __init oldmem_free(struct oldmem_ranges *l)
{
	kvfree(l->r);
	*l = (struct oldmem_ranges){};
}

static int __init oldmem_cmp(const void *a, const void *b)
{
	const struct oldmem_range *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	/* The longest first: what it covers need not be looked at. */
	if (x->end != y->end)
		return x->end > y->end ? -1 : 1;
	return 0;
}

static int __init oldmem_add_own(struct resource *res, void *arg)
{
	/* A page that is ours in part is ours. */
	return oldmem_add(arg, round_down(res->start, PAGE_SIZE),
			  round_up((u64)res->end + 1, PAGE_SIZE), 0);
}

static bool __init oldmem_overlaps(const struct oldmem_ranges *l, u64 start, u64 end)
{
	unsigned int i;

	for (i = 0; i < l->nr; i++)
		if (start < l->r[i].end && l->r[i].start < end)
			return true;
	return false;
}

/* Add what is left of a range when own RAM is taken out. own is sorted. */
static int __init oldmem_add_without(struct oldmem_ranges *l, const struct oldmem_ranges *own,
				     u64 start, u64 end, u64 src)
{
	unsigned int i;
	int err;

	for (i = 0; i < own->nr && start < end; i++) {
		const struct oldmem_range *o = &own->r[i];
		u64 src_end = src + (end - start);
		u64 keep;

		if (o->end <= src || o->start >= src_end)
			continue;
		if (o->start > src) {
			keep = o->start - src;
			err = oldmem_add(l, start, start + keep, src);
			if (err)
				return err;
		}
		keep = min(o->end, src_end) - src;
		start += keep;
		src += keep;
	}
	return start < end ? oldmem_add(l, start, end, src) : 0;
}

static int __init oldmem_read_header(void *buf, size_t len, u64 addr)
{
	/* elfcorehdr_read() refuses RAM of ours, as ioremap does. */
	ssize_t n = elfcorehdr_read(buf, len, &addr);

	if (n < 0)
		return n;
	return n == len ? 0 : -EIO;
}

static int __init oldmem_check_ehdr(const Elf64_Ehdr *e)
{
	if (memcmp(e->e_ident, ELFMAG, SELFMAG) ||
	    e->e_ident[EI_CLASS] != ELFCLASS64 ||
	    e->e_ident[EI_DATA] != ELFDATA2LSB ||
	    e->e_ident[EI_VERSION] != EV_CURRENT ||
	    e->e_version != EV_CURRENT ||
	    e->e_type != ET_CORE ||
	    e->e_machine != EM_X86_64 ||
	    e->e_phentsize != sizeof(Elf64_Phdr) ||
	    e->e_phnum == 0 || e->e_phnum > OLDMEM_MAX_PHDRS ||
	    e->e_phoff < sizeof(*e) || e->e_phoff > SZ_64K)
		return -EINVAL;
	return 0;
}

/* The header is input from a kernel that may have been broken or hostile. */
static int __init oldmem_add_phdr(struct oldmem_ranges *l, const Elf64_Phdr *p)
{
	const u64 limit = 1ULL << boot_cpu_data.x86_phys_bits;
	u64 end, src_end;

	if (p->p_type != PT_LOAD || !p->p_memsz)
		return 0;
	/* p_memsz and not p_filesz: as process_ptload_program_headers_elf64() */
	if (check_add_overflow(p->p_paddr, p->p_memsz, &end) ||
	    check_add_overflow(p->p_offset, p->p_memsz, &src_end) ||
	    end > limit || src_end > limit ||
	    !PAGE_ALIGNED(p->p_paddr - p->p_offset)) {
		if (!skipped_phdrs++)
			pr_warn("program header left out: paddr %#llx offset %#llx memsz %#llx\n",
				p->p_paddr, p->p_offset, p->p_memsz);
		return 0;
	}
	return oldmem_add(l, p->p_paddr, end, p->p_offset);
}

static int __init oldmem_read_phdrs(struct oldmem_ranges *l, u64 addr, unsigned int nr)
{
	Elf64_Phdr *batch;
	unsigned int i, n;
	int err = 0;

	batch = kmalloc_array(OLDMEM_PHDR_BATCH, sizeof(*batch), GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	for (; nr && !err; nr -= n) {
		n = min_t(unsigned int, nr, OLDMEM_PHDR_BATCH);
		err = oldmem_read_header(batch, n * sizeof(*batch), addr);
		for (i = 0; i < n && !err; i++)
			err = oldmem_add_phdr(l, &batch[i]);
		addr += n * sizeof(*batch);
	}
	kfree(batch);
	return err;
}

/*
 * Sorted, disjoint, merged, without own RAM. Where two program headers
 * describe the same address (the kernel's text is described twice) the first
 * one in address order wins.
 */
static int __init oldmem_build(struct oldmem_ranges *raw, const struct oldmem_ranges *own)
{
	struct oldmem_range cur = {};
	unsigned int i;
	int err;

	sort(raw->r, raw->nr, sizeof(*raw->r), oldmem_cmp, NULL);
	for (i = 0; i < raw->nr; i++) {
		struct oldmem_range *n = &raw->r[i];

		if (n->end <= cur.end)
			continue;
		if (n->start < cur.end) {
			n->src += cur.end - n->start;
			n->start = cur.end;
		}
		if (n->start == cur.end && cur.start < cur.end &&
		    n->src - n->start == cur.src - cur.start) {
			cur.end = n->end;
			continue;
		}
		err = oldmem_add_without(&ram, own, cur.start, cur.end, cur.src);
		if (err)
			return err;
		cur = *n;
	}
	err = oldmem_add_without(&ram, own, cur.start, cur.end, cur.src);
	if (err)
		return err;

	for (i = 0; i < ram.nr; i++)
		ram_bytes += ram.r[i].end - ram.r[i].start;
	return 0;
}

static int __init oldmem_parse(void)
{
	struct oldmem_ranges raw = {}, own = {};
	u64 addr = elfcorehdr_addr, size;
	Elf64_Ehdr ehdr;
	int err;

	err = walk_system_ram_res(0, U64_MAX, &own, oldmem_add_own);
	if (err)
		goto out;
	sort(own.r, own.nr, sizeof(*own.r), oldmem_cmp, NULL);

	err = oldmem_read_header(&ehdr, sizeof(ehdr), addr);
	if (!err)
		err = oldmem_check_ehdr(&ehdr);
	if (err)
		goto out;

	/*
	 * kexec on x86 gives the address only ("elfcorehdr=0x%lx" in
	 * setup_cmdline(), arch/x86/kernel/kexec-bzimage64.c). The end of the
	 * program headers is the end of what is surely the elfcorehdr.
	 */
	size = ehdr.e_phoff + (u64)ehdr.e_phnum * sizeof(Elf64_Phdr);
	if (elfcorehdr_size && size > elfcorehdr_size)
		err = -EINVAL;
	else if (addr + size < addr || oldmem_overlaps(&own, addr, addr + size))
		err = -EINVAL;
	if (err)
		goto out;

	err = oldmem_read_phdrs(&raw, addr + ehdr.e_phoff, ehdr.e_phnum);
	if (!err)
		err = oldmem_build(&raw, &own);
	if (!err && !ram.nr)
		err = -EINVAL;
	if (!err)
		hdr = (struct oldmem_range){ addr, addr + size, addr };
out:
	oldmem_free(&raw);
	oldmem_free(&own);
	if (err)
		oldmem_free(&ram);
	return err;
}

/*
 * At subsys level, because vmcore_init(), an fs_initcall, forgets the address
 * (elfcorehdr_addr = ELFCORE_ADDR_ERR).
 */
static int __init oldmem_early_init(void)
{
	unsigned int i;

	if (!is_vmcore_usable())
		return 0;
	oldmem_status = oldmem_parse();
	if (oldmem_status) {
		pr_err("elfcorehdr at %#llx: error %d\n", elfcorehdr_addr,
		       oldmem_status);
		return 0;
	}
	for (i = 0; i < fault_nr; i++)
		oldmem_mark_bad(fault[i]);
	if (fault_nr)
		pr_warn("TEST: %u pages are made to read as bad\n", fault_nr);
	pr_info("%u ranges, %llu MiB of old memory\n", ram.nr, ram_bytes >> 20);
	return 0;
}
subsys_initcall(oldmem_early_init);

static int __init oldmem_init(void)
{
	return misc_register(&oldmem_misc);
}
device_initcall(oldmem_init);
