//! `lifeboat verify`: looks at every byte of a dump. Exit code 0 sound and
//! complete, 3 sound but not complete, 1 damaged.

use lifeboat_field::dump::{PageTotals, Verdict};
use serde_json::json;

use super::opened::{Source, identities};
use crate::cli::Verify;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, progress, safe};

/// Findings that are printed in full; `--json` gives all.
const SHOWN: usize = 20;

/// Verifies a dump, with its key if one is given.
pub(crate) fn run(args: &Verify) -> Ended {
    let source = Source { dev: &args.dev, partition: args.partition.as_deref(), which: args.dump };
    let (file, name) = source.file()?;
    let ids = identities(&args.identity)?;
    let opener = match (&ids, file.in_the_clear()) {
        (None, false) => None,
        (ids, _) => Some(file.opener(ids.as_ref()).context(&name)?),
    };
    let bar = progress(file.len(), "verify");
    let verdict = file.verify(opener.as_ref(), &|done| bar.set_position(done));
    bar.finish_and_clear();
    if args.json {
        let json = serde_json::to_value(&verdict).context("JSON")?;
        super::print_json(&json!({
            "name": name, "sound": verdict.is_sound(), "complete": verdict.is_complete(), "verdict": json,
        }))?;
    } else {
        print(&name, &verdict, file.in_the_clear());
    }
    if !verdict.is_sound() {
        if !args.json {
            Failure::new(format!("{name} is damaged: {} findings", count(&verdict)))
                .hint("pull it again if the volume still has it; what is sound can be exported with --skip-damaged")
                .report();
        }
        return Ok(Outcome::Failed);
    }
    if verdict.is_complete() {
        return Ok(Outcome::Good);
    }
    if !args.json {
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
    crate::ui::say!(
        "  verdict     {}",
        match (v.is_sound(), v.is_complete()) {
            (false, _) => "damaged",
            (true, true) => "sound and complete",
            (true, false) => "sound, but not complete",
        }
    );
}

fn pages(p: &PageTotals, known: bool) -> String {
    if !known {
        return "not counted: there is no commit record, and no key was given".to_owned();
    }
    format!(
        "{} data, {} zero, {} excluded, {} unreadable",
        p.data, p.zero, p.excluded, p.unreadable
    )
}
