//! `lifeboat list`: which dumps there are, what is in them and how they came.

use std::fmt::Write as _;

use lifeboat_format::commit::{PageCounts, SourceKind};
use lifeboat_format::{CommitRecord, PAGE, PhaseId, field_text};
use serde_json::{Value, json};

use super::summary::{self, State, Summary};
use crate::cli::List;
use crate::device::{self, Found};
use crate::ui::{self, Ended, Failure, Outcome, hex, safe, when};

/// One volume, or a pulled dump on its own.
struct Group {
    name: String,
    volume: Option<Value>,
    heading: String,
    dumps: Vec<Summary>,
    damaged_slots: Vec<String>,
}

/// Lists DEV. Exit code 0 when there is a complete dump or none at all, 3 when
/// every dump is partial or incomplete, 1 when something is damaged.
pub(crate) fn run(args: &List) -> Ended {
    let found = device::find_all(&args.dev, args.partition.as_deref())?;
    let groups = found.into_iter().map(group).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        let list: Vec<Value> = groups.iter().map(group_json).collect();
        super::print_json(&json!({ "volumes": list }))?;
    } else {
        for g in &groups {
            crate::ui::put(group_text(g));
        }
    }
    Ok(outcome(&groups))
}

fn outcome(groups: &[Group]) -> Outcome {
    let mut all = groups.iter().flat_map(|g| &g.dumps).peekable();
    if groups.iter().any(|g| !g.damaged_slots.is_empty()) {
        return Outcome::Failed;
    }
    if all.peek().is_none() {
        return Outcome::Good;
    }
    let states: Vec<State> = all.map(|d| d.state).collect();
    if states.contains(&State::Complete) {
        Outcome::Good
    } else if states.iter().all(|s| *s == State::Damaged) {
        Outcome::Failed
    } else {
        Outcome::Partial
    }
}

fn group(found: Found) -> Result<Group, Failure> {
    match found {
        Found::Dump(window) => Ok(Group {
            name: window.name.clone(),
            volume: None,
            heading: format!("{}: a pulled dump, {}\n", window.name, ui::bytes(window.len)),
            dumps: vec![Summary::read(window, None)],
            damaged_slots: Vec::new(),
        }),
        Found::Volume(window) => {
            let (volume, dumps) = summary::of_volume(&window)?;
            let sb = volume.superblock();
            let label = safe(field_text(&sb.label));
            let damaged_slots = volume
                .slots()
                .iter()
                .enumerate()
                .filter_map(|(n, s)| s.as_ref().err().map(|e| format!("slot {n}: {e}")))
                .collect();
            let mut heading = format!(
                "{}: volume {}, {}{}, {} of {} dumps\n",
                window.name,
                hex(&sb.volume_id),
                ui::bytes(sb.part_len),
                if label.is_empty() { String::new() } else { format!(", label `{label}`") },
                dumps.len(),
                sb.max_dumps
            );
            if let Err(e) = volume.guard() {
                let _ = writeln!(heading, "  WARNING: no crash kernel will write here: {e}");
            }
            let json = json!({
                "id": hex(&sb.volume_id), "label": label, "bytes": sb.part_len,
                "part_start": sb.part_start.0, "max_dumps": sb.max_dumps, "formatted": sb.created,
            });
            Ok(Group { name: window.name, volume: Some(json), heading, dumps, damaged_slots })
        }
    }
}

fn group_text(g: &Group) -> String {
    let mut out = g.heading.clone();
    for slot in &g.damaged_slots {
        let _ = writeln!(out, "  DAMAGED {slot}");
    }
    for d in &g.dumps {
        out.push_str(&dump_text(d));
    }
    out
}

fn dump_text(d: &Summary) -> String {
    let mut out = String::new();
    let pulled = match &d.slot {
        Some((_, r)) if r.pulled => ", pulled",
        Some(_) => ", not pulled",
        None => "",
    };
    let crypt = match d.in_the_clear() {
        Some(true) => "*** UNENCRYPTED: anybody who holds this can read the machine's memory ***",
        Some(false) => "ENCRYPTED (AES-256-GCM, key wrapped by age)",
        None => "encryption unknown: the header is lost",
    };
    let _ = writeln!(out, "dump {}  {}{pulled}", d.number, d.state.name());
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<12}{value}");
    };
    if let Some(h) = &d.header {
        line("when", &when(h.created));
        line("kernel", &safe(h.release_text()));
        line(
            "reason",
            &if h.reason_text().is_empty() {
                "not known".to_owned()
            } else {
                safe(h.reason_text())
            },
        );
        line("image", &safe(field_text(&h.image)));
        line("id", &hex(&h.dump_id));
    }
    line("security", crypt);
    if !d.recipients.is_empty() {
        line("recipients", &d.recipients.join(" "));
    }
    match &d.commit {
        Some(c) => commit_text(c, &mut line),
        None => line("size", &format!("up to {}, never committed", ui::bytes(d.window.len))),
    }
    for what in &d.damage {
        line("DAMAGED", what);
    }
    out
}

fn commit_text(c: &CommitRecord, line: &mut impl FnMut(&str, &str)) {
    line("outcome", c.outcome.name());
    let counted = c.memory.seen().saturating_add(c.swap.seen());
    let raw = counted.saturating_mul(PAGE as u64);
    line(
        "size",
        &format!(
            "{} in {} chunks, for {}{}",
            ui::bytes(c.total_len),
            c.chunks,
            ui::bytes(raw),
            ratio(raw, c.total_len)
        ),
    );
    line("memory", &pages_text(&c.memory));
    line("swap", &pages_text(&c.swap));
    line("read errors", &c.read_errors.to_string());
    line("source", source_name(c.source));
    line("I/O", &format!("{}, {} writes", c.io.name(), c.writes));
    let phases: Vec<String> =
        phases(c).map(|(name, ms)| format!("{name} {}.{:03} s", ms / 1000, ms % 1000)).collect();
    line("phases", &phases.join(", "));
}

fn phases(c: &CommitRecord) -> impl Iterator<Item = (String, u32)> {
    c.phases.iter().filter(|(id, _)| *id != 0).map(|(id, ms)| {
        let name =
            PhaseId::from_u8(*id).map_or_else(|| format!("phase-{id}"), |p| p.name().to_owned());
        (name, *ms)
    })
}

fn source_name(source: SourceKind) -> &'static str {
    match source {
        SourceKind::Oldmem => "/dev/oldmem",
        SourceKind::Vmcore => "/proc/vmcore",
        SourceKind::File => "file",
    }
}

/// `, ratio 3.42`, where there is something to divide.
fn ratio(raw: u64, stored: u64) -> String {
    match (u128::from(raw) * 100).checked_div(u128::from(stored)) {
        Some(r) if r > 0 => format!(", ratio {}.{:02}", r / 100, r % 100),
        _ => String::new(),
    }
}

fn pages_text(p: &PageCounts) -> String {
    if p.asked == 0 && p.seen() == 0 {
        return "none".to_owned();
    }
    let missing = p.asked.saturating_sub(p.seen());
    let mut text = format!(
        "{} pages asked: {} data, {} zero, {} excluded, {} unreadable",
        p.asked, p.data, p.zero, p.excluded, p.unreadable
    );
    if missing > 0 {
        let _ = write!(text, ", {missing} NOT CAPTURED");
    }
    let _ = write!(text, "; {} stored", ui::bytes(p.stored_bytes));
    text
}

fn group_json(g: &Group) -> Value {
    json!({
        "name": g.name,
        "volume": g.volume,
        "damaged_slots": g.damaged_slots,
        "dumps": g.dumps.iter().map(dump_json).collect::<Vec<_>>(),
    })
}

pub(super) fn dump_json(d: &Summary) -> Value {
    json!({
        "number": d.number,
        "state": d.state.name(),
        "pulled": d.slot.map(|(_, r)| r.pulled),
        "slot": d.slot.map(|(n, _)| n),
        "created": d.header.map(|h| h.created),
        "release": d.header.as_ref().map(|h| h.release_text().to_owned()),
        "reason": d.header.as_ref().map(|h| h.reason_text().to_owned()),
        "image": d.header.as_ref().map(|h| field_text(&h.image).to_owned()),
        "dump_id": d.header.map(|h| hex(&h.dump_id)),
        "encrypted": d.in_the_clear().map(|clear| !clear),
        "recipients": d.recipients,
        "bytes": d.commit.map(|c| c.total_len),
        "damage": d.damage,
        "commit": d.commit.as_ref().map(commit_json),
    })
}

fn commit_json(c: &CommitRecord) -> Value {
    let pages = |p: &PageCounts| {
        json!({
            "asked": p.asked, "data": p.data, "zero": p.zero, "unreadable": p.unreadable,
            "excluded": p.excluded, "stored_bytes": p.stored_bytes,
        })
    };
    let phases: Vec<Value> =
        phases(c).map(|(name, ms)| json!({ "phase": name, "ms": ms })).collect();
    json!({
        "outcome": c.outcome.name(), "source": source_name(c.source), "io": c.io.name(),
        "chunks": c.chunks, "committed": c.committed, "read_errors": c.read_errors,
        "writes": c.writes, "memory": pages(&c.memory), "swap": pages(&c.swap), "phases": phases,
    })
}
