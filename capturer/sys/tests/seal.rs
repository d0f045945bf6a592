//! The seal holds: in a child process, because it ends the program that breaks it.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]
#![allow(unsafe_code, reason = "the child writes its last words without allocating")]

use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use lifeboat_sys::{Sealing, seal};

#[global_allocator]
static HEAP: Sealing = Sealing;

const KEY: &str = "LIFEBOAT_SEAL_TEST";

/// Runs test `name` again as the child that does `what`; gives its exit code, the signal
/// that killed it, and what it wrote.
fn child(name: &str, what: &str) -> (Option<i32>, Option<i32>, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let out = command.args([name, "--exact", "--nocapture"]).env(KEY, what).output().unwrap();
    (out.status.code(), out.status.signal(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Waits until the harness sleeps on the main thread: before it does, it allocates.
fn let_the_harness_sleep() {
    let stat = format!("/proc/self/task/{}/stat", std::process::id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn end(_: usize) -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(42) }
}

fn end_badly(bytes: usize) -> ! {
    drop(black_box(vec![1u8; bytes]));
    end(bytes)
}

/// What the child does; it ends within.
fn act(what: &str) -> ! {
    let mut kept = vec![1u8; 100];
    let breaks = what == "thread";
    static READY: Barrier = Barrier::new(2);
    let thread = std::thread::spawn(move || {
        READY.wait();
        while !breaks || !seal::is_sealed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        black_box(Box::new(7u8));
    });
    READY.wait();
    let_the_harness_sleep();
    match what {
        "hook" => seal::on_breach(end),
        "bad hook" => seal::on_breach(end_badly),
        "panic" => std::panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("lost");
            let _ = std::io::stderr().write_all(text.as_bytes());
            end(0)
        })),
        _ => {}
    }
    seal::seal();
    assert!(seal::is_sealed());
    match what {
        "nothing" => {
            kept.fill(2);
            kept.truncate(50);
            drop(kept);
            std::thread::sleep(Duration::from_millis(20));
            let _ = std::io::stderr().write_all(b"quiet\n");
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        "grow" => kept.resize(1000, 3),
        "zeroed" => drop(black_box(vec![0u8; 10])),
        "thread" => drop(thread.join()),
        #[allow(clippy::panic, reason = "the panic is what is tested")]
        "panic" => panic!("made up behind the seal: {}", kept.len()),
        _ => drop(black_box(Box::new([0u64; 4]))),
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) }
}

#[test]
fn the_seal_holds() {
    const NAME: &str = "the_seal_holds";
    if let Ok(what) = std::env::var(KEY) {
        act(&what);
    }
    let text = "lifeboat: memory was allocated behind the seal\n";
    assert_eq!(child(NAME, "nothing"), (Some(0), None, "quiet\n".to_owned()));
    for what in ["new", "grow", "zeroed", "thread", "bad hook"] {
        let (code, signal, said) = child(NAME, what);
        assert_eq!((code, signal), (None, Some(libc::SIGABRT)), "{what}: {said}");
        assert!(said.ends_with(text), "{what}: {said}");
    }
    assert_eq!(child(NAME, "hook"), (Some(42), None, String::new()));
    let (code, _, said) = child(NAME, "panic");
    assert_eq!((code, &*said), (Some(42), "made up behind the seal: 100"));
}

#[test]
fn what_the_heap_gave_out_is_counted() {
    let before = seal::c_heap();
    let block = black_box(vec![1u8; 8 << 20]);
    // The other test allocates beside this one, a little.
    let now = seal::c_heap();
    assert!(now >= before + (7 << 20), "{before} {now}");
    drop(block);
    assert!(seal::c_heap() < now - (7 << 20));
}
