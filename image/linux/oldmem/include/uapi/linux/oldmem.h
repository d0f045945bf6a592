/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/oldmem: the memory of the kernel that crashed, by physical address.
 *
 * The interface is described in image/linux/README.md of Lifeboat.
 */
#ifndef _UAPI_LINUX_OLDMEM_H
#define _UAPI_LINUX_OLDMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define OLDMEM_VERSION		1

/* Old memory was encrypted by the CPU and is read through its old key. */
#define OLDMEM_F_ENCRYPTED	(1U << 0)
/* oldmem.fault= named at least one page: bad pages are not all real. */
#define OLDMEM_F_INJECTED	(1U << 1)

/**
 * struct oldmem_info - what the driver knows about old memory
 * @version:		OLDMEM_VERSION
 * @flags:		OLDMEM_F_*; unknown bits are to be ignored
 * @elfcorehdr_addr:	physical address of the elfcorehdr, as pread() takes it
 * @elfcorehdr_size:	bytes readable there
 * @ram_bytes:		sum of all ranges of old RAM that can be read
 * @ram_ranges:		number of these ranges (SEEK_DATA/SEEK_HOLE walk them)
 * @window_bytes:	largest piece mapped at once; reads that do not cross
 *			a multiple of it map once
 * @bad_pages:		pages found bad since boot plus pages injected
 * @skipped_phdrs:	program headers that made no sense and were left out
 * @reserved:		zero
 */
struct oldmem_info {
	__u32 version;
	__u32 flags;
	__u64 elfcorehdr_addr;
	__u64 elfcorehdr_size;
	__u64 ram_bytes;
	__u32 ram_ranges;
	__u32 window_bytes;
	__u32 bad_pages;
	__u32 skipped_phdrs;
	__u64 reserved[2];
};

#define OLDMEM_IOC_MAGIC	0xBE
#define OLDMEM_GET_INFO		_IOR(OLDMEM_IOC_MAGIC, 0x01, struct oldmem_info)

#endif /* _UAPI_LINUX_OLDMEM_H */
