//! `lifeboat verify`: looks at every byte of a dump. Exit code 0 sound and
//! complete, 3 sound but not complete, 1 damaged.
//!
//! `--json` is a report to be filed as evidence: what was looked at (SHA-256 of the
//! bytes as they lie there), with what, and the result for every chunk.

use lifeboat_crypt::CryptError;
use lifeboat_field::dump::{DumpError, DumpFile, MissingPages, PageTotals, Verdict};
use lifeboat_format::{Cipher, CommitRecord, DumpHeader, FORMAT_VERSION, field_text};
use serde_json::{Value, json};

use super::opened::Source;
use crate::cli::Verify;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, hex, now, progress, safe, when};

/// Findings and missing ranges that are printed in full; `--json` gives all.
const SHOWN: usize = 20;

/// Verifies a dump, with its key if one is given.
pub(crate) fn run(args: &Verify) -> Ended {
    let source = Source {
        dev: &args.dev,
        partition: args.partition.as_deref(),
        with: &args.with,
        which: args.dump,
    };
    let (file, name) = source.file()?;
    let ids = crate::keyfile::identities(&args.identity)?;
    let mut replaced = None;
    let opener = match (&ids, file.in_the_clear()) {
        (None, false) => None,
        (ids, _) => match file.opener(ids.as_ref()) {
            Ok(opener) => Some(opener),
            // Evidence of its own: the rest is checked without the key.
            Err(DumpError::Crypt(why @ CryptError::Replaced)) => {
                replaced = Some(why.to_string());
                None
            }
            Err(other) => return Err(other).context(&name),
        },
    };
    let bar = progress(file.len(), "verify");
    let mut verdict = file.verify(opener.as_ref(), &|done| bar.set_position(done));
    bar.finish_and_clear();
    if let Some(why) = replaced {
        verdict.key_area_replaced(why.lines().next().unwrap_or_default());
    }
    if args.json {
        super::print_json(&evidence(&name, &file, &verdict)?)?;
    } else {
        print(&name, &verdict, file.in_the_clear());
    }
    end(&name, &verdict, args.json)
}

fn end(name: &str, verdict: &Verdict, json: bool) -> Ended {
    if !verdict.is_sound() {
        if !json {
            Failure::new(format!("{name} is damaged: {} findings", count(verdict)))
                .hint("pull it again if the volume still has it; what is sound can be exported with --skip-damaged")
                .report();
        }
        return Ok(Outcome::Failed);
    }
    if verdict.is_complete() {
        return Ok(Outcome::Good);
    }
    if !json {
        let (what, hint) = match verdict.outcome {
            None => (
                "has no end: the capture was cut off, or the file was",
                "if the volume still has the dump, `lifeboat list` shows its size: pull it again; what is there can be exported",
            ),
            Some(_) => (
                "is valid but not complete",
                "`lifeboat list` says why the capture ended early; what is there can be exported",
            ),
        };
        Failure::new(format!("{name} {what}")).hint(hint).report();
    }
    Ok(Outcome::Partial)
}

fn word(v: &Verdict) -> &'static str {
    match (v.is_sound(), v.is_complete()) {
        (false, _) => "damaged",
        (true, true) => "sound and complete",
        (true, false) => "sound, but not complete",
    }
}

/// The report as JSON.
fn evidence(name: &str, file: &DumpFile, v: &Verdict) -> Result<Value, Failure> {
    let verdict = serde_json::to_value(v).context("JSON")?;
    Ok(json!({
        "report": "lifeboat verify",
        "tool": { "version": env!("CARGO_PKG_VERSION"), "format": FORMAT_VERSION },
        "when": when(now()),
        "name": name,
        "bytes": v.bytes,
        "sha256": v.sha256,
        "header": header(file.header()),
        "recipients": file.fingerprints().iter().map(|f| hex(f)).collect::<Vec<_>>(),
        "commit": file.committed().ok().map(commit),
        "sound": v.is_sound(),
        "complete": v.is_complete(),
        "conclusion": word(v),
        "verdict": verdict,
    }))
}

fn header(h: &DumpHeader) -> Value {
    json!({
        "version": h.version, "dump_id": hex(&h.dump_id), "volume_id": hex(&h.volume_id),
        "number": h.number, "created": h.created, "release": h.release_text(),
        "reason": h.reason_text(), "image": field_text(&h.image),
        "chunk_pages": h.chunk_pages, "key_id": hex(&h.key_id),
        "cipher": match h.cipher { Cipher::None => "none", Cipher::Aes256Gcm => "aes-256-gcm" },
    })
}

fn commit(c: &CommitRecord) -> Value {
    json!({
        "outcome": c.outcome.name(), "committed": c.committed, "total_len": c.total_len,
        "chunks": c.chunks, "last_part": c.last_part, "read_errors": c.read_errors,
    })
}

fn count(v: &Verdict) -> u64 {
    v.more_findings.saturating_add(v.findings.len() as u64)
}

fn print(name: &str, v: &Verdict, clear: bool) {
    crate::ui::say!("{name}: {}", ui::bytes(v.bytes));
    crate::ui::say!("  dump        {}", v.dump_id);
    let kinds: Vec<String> = v.kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
    crate::ui::say!(
        "  chunks      {} good, {} damaged ({})",
        v.good_chunks,
        v.bad_chunks,
        kinds.join(", ")
    );
    let known = v.opened || v.outcome.is_some();
    crate::ui::say!("  memory      {}", pages(&v.memory, known));
    crate::ui::say!("  swap        {}", pages(&v.swap, known));
    crate::ui::say!("  outcome     {}", v.outcome.unwrap_or("never committed"));
    if let Some(sum) = &v.sha256 {
        crate::ui::say!("  sha256      {sum}");
    }
    crate::ui::say!(
        "  checked     {}",
        match (v.opened, clear) {
            (true, false) => "checksums, every seal, contents, index, header digest",
            (true, true) => "checksums, contents, index (UNENCRYPTED: nothing proves who wrote it)",
            (false, _) => "checksums only; give the key with -i to check every seal",
        }
    );
    for f in v.findings.iter().take(SHOWN) {
        crate::ui::say!("  DAMAGED     bytes {} to {}: {}", f.start, f.end, safe(&f.text));
    }
    let more = count(v).saturating_sub(SHOWN as u64);
    if more > 0 {
        crate::ui::say!("  DAMAGED     and {more} more; --json lists them");
    }
    missing(v);
    crate::ui::say!("  verdict     {}", word(v));
}

fn missing(v: &Verdict) {
    if v.opened && !v.missing_known {
        crate::ui::say!(
            "  MISSING     not known: the tables that say what was wanted are lost, or the pages lie too scattered"
        );
    }
    for m in v.missing.iter().take(SHOWN) {
        crate::ui::say!("  MISSING     {}", range(m));
    }
    let shown: u64 = v.missing.iter().take(SHOWN).map(|m| m.end - m.first).sum();
    if v.missing_pages > shown {
        crate::ui::say!(
            "  MISSING     and {} more pages; --json lists them",
            v.missing_pages - shown
        );
    }
}

fn range(m: &MissingPages) -> String {
    let pages = m.end - m.first;
    if m.space == "memory" {
        let (from, to) = (m.first.saturating_mul(4096), m.end.saturating_mul(4096));
        return format!("physical memory {from:#x} to {to:#x} ({pages} pages)");
    }
    format!("pages {} to {} of swap device {} ({pages} pages)", m.first, m.end, m.device)
}

fn pages(p: &PageTotals, known: bool) -> String {
    if !known {
        return "not counted: there is no commit record, and no key was given".to_owned();
    }
    format!(
        "{} data, {} zero, {} of one word, {} same as another, {} excluded, {} unreadable",
        p.data, p.zero, p.fill, p.same, p.excluded, p.unreadable
    )
}
