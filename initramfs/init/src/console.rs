//! The console: one plain line at a time, and the flight recorder behind it.
//!
//! Nothing here allocates: lines are put together in a fixed buffer, on the stack of who
//! speaks. Every line also goes into a fixed buffer that ends up in the dump's trailer,
//! so that a field engineer years later reads what the console showed.

use std::sync::Mutex;

use heapless::String;

/// Bytes of the flight recorder. Lines beyond it are on the console only.
const RECORDER: usize = 16 << 10;

static RECORD: Mutex<String<RECORDER>> = Mutex::new(String::new());

/// Prints a line with our name in front.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// A writer of bounded length that cuts what does not fit.
struct Cut<const N: usize>(String<N>);

impl<const N: usize> std::fmt::Write for Cut<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            // A newline within a message would look like another message.
            let c = if c == '\n' { ' ' } else { c };
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Prints and records one line. Never fails: there is nobody to tell.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    let mut cut: Cut<1024> = Cut(String::new());
    let _ = std::fmt::write(&mut cut, format_args!("lifeboat: {text}"));
    let _ = cut.0.push('\n');
    // One write a line: the kernel's own messages then do not fall into it. Not by std's
    // stderr, which has a lock: a thread that hangs in it must not silence the others.
    let mut left = cut.0.as_bytes();
    while let Ok(done @ 1..) = rustix::io::write(rustix::stdio::stderr(), left) {
        left = left.get(done..).unwrap_or_default();
    }
    // Not lock(): a panic while the record is read must still be able to speak.
    if let Ok(mut record) = RECORD.try_lock() {
        let _ = record.push_str(&cut.0);
    }
}

/// What was recorded so far, given to `f`.
pub(crate) fn with_record(f: impl FnOnce(&str)) {
    if let Ok(record) = RECORD.lock() {
        f(&record);
    }
}
