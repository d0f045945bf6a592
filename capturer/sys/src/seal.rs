//! An allocator that can be sealed: what runs behind the seal allocates nothing, or ends.
//!
//! A capture takes all its memory before the first page. Whatever would take more later
//! is a defect that shows only where it hurts most, under a fault on a full crash kernel;
//! so it ends the run at once, at the first test that comes by.
//!
//! A program makes [`Sealing`] its global allocator and calls [`seal`] once. It cannot be
//! undone. Memory may still be given back: a thread that ends does so. C code (glibc, zstd)
//! does not come by here; [`c_heap`] tells what it holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The system's allocator, with a seal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sealing;

/// What ends the program on a breach. It gets the number of bytes that were asked for,
/// must not allocate, and must not return.
pub type Breach = fn(bytes: usize) -> !;

static SEALED: AtomicBool = AtomicBool::new(false);
/// The thread that broke the seal first, 0 for none.
static BREAKER: AtomicI32 = AtomicI32::new(0);
static BREACH: OnceLock<Breach> = OnceLock::new();

/// Says what ends the program on a breach, instead of `abort(3)`. Only the first call counts.
pub fn on_breach(breach: Breach) {
    let _ = BREACH.set(breach);
}

/// From here on nobody allocates, on no thread.
pub fn seal() {
    SEALED.store(true, Ordering::SeqCst);
}

/// Whether the seal is on.
#[must_use]
pub fn is_sealed() -> bool {
    SEALED.load(Ordering::Relaxed)
}

/// The end, with what is sure to work: no lock, no buffer, no format.
#[cold]
fn breach(bytes: usize) -> ! {
    // SAFETY: gettid has no conditions.
    let me = unsafe { libc::gettid() };
    let first = BREAKER.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst);
    if first.is_err_and(|breaker| breaker != me) {
        // Another thread has begun to end the program: leave it to that.
        loop {
            // SAFETY: pause has no conditions.
            unsafe { libc::pause() };
        }
    }
    if let (true, Some(end)) = (first.is_ok(), BREACH.get()) {
        end(bytes);
    }
    let text = b"lifeboat: memory was allocated behind the seal\n";
    // SAFETY: writes a static text to standard error; abort has no conditions. PID 1 cannot
    // be killed by its own SIGABRT, but by the trap that abort(3) ends in.
    unsafe {
        let _ = libc::write(2, text.as_ptr().cast(), text.len());
        libc::abort();
    }
}

fn check(bytes: usize) {
    // A thread that panics makes up a message. It is at its end, and what comes of it is
    // the panic hook's: the message is worth more than the rule.
    if SEALED.load(Ordering::Relaxed) && !std::thread::panicking() {
        breach(bytes);
    }
}

// SAFETY: every call goes to the system's allocator with the very arguments, or nowhere.
unsafe impl GlobalAlloc for Sealing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is the one that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as in alloc.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check(new_size);
        // SAFETY: as in alloc.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as in alloc.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Makes glibc's heap small, for a program that knows what it needs: one arena for all
/// threads (each further one would take address space and pages of its own), and every
/// block of 64 KiB or more a mapping of its own that goes back whole when it is freed
/// (`mallopt(3)`; setting the threshold also stops glibc from raising it).
pub fn lean() {
    // SAFETY: mallopt has no conditions; it is called before there are further threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Gives what is free in glibc's heap back to the kernel (`malloc_trim(3)`).
pub fn trim() {
    // SAFETY: malloc_trim has no conditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that glibc's heap has given out, to Rust and C together (`mallinfo2(3)`).
#[must_use]
pub fn c_heap() -> usize {
    // SAFETY: mallinfo2 has no conditions.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks.saturating_add(info.hblkhd)
}

/// Takes all memory there is and does not stop, so that the kernel has to give up. For
/// a test of what it does then; on mappings, because the heap may be sealed.
pub fn exhaust() -> ! {
    const STEP: usize = 1 << 20;
    loop {
        // SAFETY: a new private mapping at an address that the kernel chooses, and writes
        // within it; it is never unmapped.
        unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), STEP, prot, flags, -1, 0);
            if at != libc::MAP_FAILED {
                std::ptr::write_bytes(at.cast::<u8>(), 0xa5, STEP);
            }
        }
    }
}
