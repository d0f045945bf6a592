//! What a person can do wrong on the host: each error is clear, has a hint, the
//! documented exit code, and leaves no output behind.

use std::fs;
use std::path::Path;

use lifeboat_qemu::cycle::{Lab, Said, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure};

/// Wrong key, truncated, flipped, not a dump, an existing output.
pub(crate) fn host_errors(lab: &Lab) -> Res<()> {
    let at = |name: &str| lab.work.join(name);
    let (dump, out, stranger) = (at("pulled.lifeboat"), at("bad.out"), at("stranger.txt"));
    host(&["keygen", "-o", &text(&stranger)])?.good()?;
    let export = |dump: &Path, key: &Path| {
        host(&["export", "vmcore", &text(dump), "-i", &text(key), "-o", &text(&out)])
    };
    refused("wrong key", &export(&dump, &stranger)?, &[1], &out)?;

    let whole = fs::read(&dump).ctx(dump.display())?;
    let damaged = at("damaged.lifeboat");
    let write = |bytes: &[u8]| fs::write(&damaged, bytes).ctx(damaged.display());

    write(whole.get(..whole.len() / 2).unwrap_or_default())?;
    refused("truncated, verify", &host(&["verify", &text(&damaged)])?, &[1, 3], &out)?;
    // Any prefix is readable: what is there may be exported, and is said to be partial.
    let said = export(&damaged, &lab.identity)?;
    println!("truncated, export: exit {}", said.code);
    ensure(
        matches!(said.code, 1 | 3),
        format_args!("truncated: exit {}\n{}", said.code, said.all),
    )?;
    ensure(said.code == 3 || !out.exists(), "a failed export left its output behind")?;
    let _ = fs::remove_file(&out);

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    if let Some(byte) = flipped.get_mut(middle) {
        *byte ^= 1;
    }
    write(&flipped)?;
    refused("flipped byte, verify", &host(&["verify", &text(&damaged)])?, &[1], &out)?;
    drop(flipped);

    write(&vec![0x5a; 1 << 20])?;
    refused("not a dump", &export(&damaged, &lab.identity)?, &[1], &out)?;
    refused("no such file", &export(&at("nothing"), &lab.identity)?, &[1], &out)?;

    let keep = b"somebody's file";
    fs::write(&out, keep).ctx(out.display())?;
    let said = export(&dump, &lab.identity)?;
    println!("output exists: exit {}", said.code);
    ensure(matches!(said.code, 1 | 2), format_args!("existing output: exit {}", said.code))?;
    ensure(fs::read(&out).ctx(out.display())? == keep, "an existing file was overwritten")?;
    let said = host(&["frobnicate"])?;
    ensure(said.code == 2, format_args!("bad usage: exit {}", said.code))
}

fn refused(what: &str, said: &Said, codes: &[i32], out: &Path) -> Res<()> {
    println!("{what}: exit {}: {}", said.code, said.all.trim().lines().last().unwrap_or(""));
    ensure(
        codes.contains(&said.code),
        format_args!("{what}: `{}` ended with {}:\n{}", said.command, said.code, said.all),
    )?;
    ensure(said.all.contains("hint:"), format_args!("{what}: no hint in:\n{}", said.all))?;
    let left = || fs::read_dir(out.parent().unwrap_or(out)).into_iter().flatten().flatten();
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = left().any(|e| e.file_name().to_string_lossy().contains(&name));
    ensure(!partial, format_args!("{what}: a partial output was left"))
}
