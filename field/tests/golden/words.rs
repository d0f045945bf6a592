//! The lines of a `.truth` file, as the Python reader prints them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use sha2::{Digest, Sha256};

pub fn space_line(name: &str, digest: &str, n: [u64; 4]) -> String {
    let [data, zero, unreadable, excluded] = n;
    format!("{name} {digest} data {data} zero {zero} unreadable {unreadable} excluded {excluded}\n")
}

pub fn text_line(name: &str, text: &[u8]) -> String {
    format!("{name} {} bytes {}\n", sha256(text), text.len())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
