//! `lifeboat list`: which dumps there are, what is in them and how they came.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lifeboat_field::dump::ReadAt as _;
use lifeboat_format::commit::{IoMode, PageCounts, SourceKind};
use lifeboat_format::{CommitRecord, Id, PAGE, PhaseId, field_text};
use serde_json::{Value, json};

use super::scan;
use super::summary::{self, State, Summary};
use super::volumes::{self, Laid, Opened, PartPlace};
use crate::cli::List;
use crate::device::{self, Found};
use crate::ui::{self, Ended, Failure, Outcome, hex, safe, warn, when};

/// One volume, or a pulled dump on its own.
struct Group {
    name: String,
    volume: Option<Value>,
    heading: String,
    /// Those whose first part here lies on this volume.
    dumps: Vec<Summary>,
    damaged_slots: Vec<String>,
}

/// Lists all DEVs. Exit code 0 when there is a complete dump or none at all, 3 when
/// every dump is partial or incomplete, 1 when something is damaged.
pub(crate) fn run(args: &List) -> Ended {
    if args.dev.is_empty() {
        return Err(Failure::usage("no device was named")
            .hint("`lifeboat list DEV`; `lsblk -o NAME,SIZE,PARTLABEL` lists partitions"));
    }
    let mut found = Vec::new();
    for dev in &args.dev {
        match device::find_all(dev, args.partition.as_deref()) {
            Ok(all) => found.extend(all),
            // Nothing that is known by its superblock: what lies there may still be found.
            Err(why) if args.scan => warn(why.text()),
            Err(why) => return Err(why),
        }
    }
    let groups = groups(found, args.scan)?;
    let scanned = if args.scan { scan::all(&args.dev, args.partition.as_deref())? } else { vec![] };
    if args.json {
        let list: Vec<Value> = groups.iter().map(group_json).collect();
        let mut out = json!({ "volumes": list });
        if let (true, Some(map)) = (args.scan, out.as_object_mut()) {
            map.insert("scanned".to_owned(), scan::json(&scanned));
        }
        super::print_json(&out)?;
    } else {
        for g in &groups {
            crate::ui::put(group_text(g));
        }
        for s in &scanned {
            crate::ui::put(scan::text(s));
        }
    }
    Ok(outcome(&groups, &scanned))
}

fn outcome(groups: &[Group], scanned: &[scan::Scanned]) -> Outcome {
    if groups.iter().any(|g| !g.damaged_slots.is_empty()) {
        return Outcome::Failed;
    }
    let states: Vec<State> = groups.iter().flat_map(|g| &g.dumps).map(|d| d.state).collect();
    let lost = scanned.iter().any(|s| !s.hits.is_empty());
    if states.contains(&State::Complete) || (states.is_empty() && !lost) {
        Outcome::Good
    } else if !states.is_empty() && states.iter().all(|s| *s == State::Damaged) {
        Outcome::Failed
    } else {
        Outcome::Partial
    }
}

/// All volumes with their dumps; a dump on several of them stands under the first.
fn groups(found: Vec<Found>, tolerant: bool) -> Result<Vec<Group>, Failure> {
    let (mut groups, mut volumes) = (Vec::new(), Vec::new());
    for found in found {
        match found {
            Found::Dump(window) => groups.push(Group {
                name: window.name.clone(),
                volume: None,
                heading: format!("{}: a pulled dump, {}\n", window.name, ui::bytes(window.len)),
                dumps: vec![Summary::of_file(&window)],
                damaged_slots: Vec::new(),
            }),
            Found::Volume(window) => match Opened::new(window) {
                Ok(volume) => volumes.push(volume),
                Err(why) if tolerant => warn(why.text()),
                Err(why) => return Err(why),
            },
        }
    }
    let mut dumps = summary::of_volumes(&volumes)?;
    for (n, v) in volumes.iter().enumerate() {
        let here = |d: &mut Summary| d.laid.as_ref().is_some_and(|l| l.volume() == n);
        let own = dumps.extract_if(.., here).collect();
        groups.push(of_volume(v, own));
    }
    Ok(groups)
}

fn of_volume(v: &Opened, dumps: Vec<Summary>) -> Group {
    let sb = v.volume.superblock();
    let label = safe(field_text(&sb.label));
    let held: BTreeSet<Id> = v.volume.dumps().iter().map(|(_, r)| r.dump_id).collect();
    let mut heading = format!(
        "{}: volume {}, {}{}, {} of {} dumps\n",
        v.window.name,
        hex(&sb.volume_id),
        ui::bytes(sb.part_len),
        if label.is_empty() { String::new() } else { format!(", label `{label}`") },
        held.len(),
        sb.max_dumps
    );
    if let Err(e) = v.volume.guard() {
        let _ = writeln!(heading, "  WARNING: no crash kernel will write here: {e}");
    }
    let elsewhere = held.len().saturating_sub(dumps.len());
    if elsewhere > 0 {
        let _ = writeln!(heading, "  {elsewhere} of them began on a volume listed above");
    }
    let json = json!({
        "id": hex(&sb.volume_id), "label": label, "bytes": sb.part_len,
        "part_start": sb.part_start.0, "max_dumps": sb.max_dumps, "formatted": sb.created,
    });
    let damaged_slots = volumes::slot_faults(&v.volume);
    let name = v.window.name.clone();
    Group { name, volume: Some(json), heading, dumps, damaged_slots }
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
    let pulled = match &d.laid {
        Some(l) if l.is_pulled() => ", pulled",
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
        None => {
            line("outcome", d.why());
            line("size", &format!("up to {}, never committed", ui::bytes(d.source.len())));
        }
    }
    if let Some(laid) = d.laid.as_ref().filter(|l| l.parts.len() > 1 || !d.absent.is_empty()) {
        for p in &laid.parts {
            line("part", &part_text(p));
        }
    }
    for words in super::absent_words(d) {
        line("MISSING", &words);
    }
    for what in &d.damage {
        line("DAMAGED", what);
    }
    out
}

fn part_text(p: &PartPlace) -> String {
    let number = u32::from(p.record.part) + 1;
    let slot = p.slot.map_or(String::new(), |s| format!(", slot {s}"));
    let place = format!("on {}{slot}", p.window.name);
    if !p.entered {
        return format!("{number}: {place}: set aside, nothing was written there");
    }
    let end = p.record.base.saturating_add(p.len());
    format!("{number}: bytes {} to {end}, {place}", p.record.base)
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
        "{} pages asked: {} data, {} zero, {} of one word, {} same as another, {} excluded, {} unreadable",
        p.asked, p.data, p.zero, p.fill, p.same, p.excluded, p.unreadable
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
        "why": d.why(),
        "pulled": d.laid.as_ref().map(Laid::is_pulled),
        "slot": d.laid.as_ref().and_then(|l| l.parts.first()).and_then(|p| p.slot),
        "parts": d.laid.as_ref().map(|l| l.parts.iter().map(part_json).collect::<Vec<_>>()),
        "missing_parts": d.absent.iter().map(|a| json!({
            "from": a.from, "to": a.to, "volume": a.volume.map(|id| hex(&id)),
        })).collect::<Vec<_>>(),
        "format_version": d.header.map(|h| h.version),
        "created": d.header.map(|h| h.created),
        "release": d.header.as_ref().map(|h| h.release_text().to_owned()),
        "reason": d.header.as_ref().map(|h| h.reason_text().to_owned()),
        "image": d.header.as_ref().map(|h| field_text(&h.image).to_owned()),
        "dump_id": d.header.map(|h| hex(&h.dump_id)),
        "encrypted": d.in_the_clear().map(|clear| !clear),
        "recipients": d.recipients,
        "bytes": d.commit.map(|c| c.total_len),
        "reach": d.source.len(),
        "damage": d.damage,
        "commit": d.commit.as_ref().map(commit_json),
    })
}

fn part_json(p: &PartPlace) -> Value {
    json!({
        "part": p.record.part, "volume": hex(&p.volume_id), "device": p.window.name,
        "slot": p.slot, "number": p.record.number, "base": p.record.base, "bytes": p.len(),
        "start": p.record.start.0, "pulled": p.record.pulled, "entered": p.entered,
    })
}

fn commit_json(c: &CommitRecord) -> Value {
    let pages = |p: &PageCounts| {
        json!({
            "asked": p.asked, "data": p.data, "zero": p.zero, "unreadable": p.unreadable,
            "fill": p.fill, "same": p.same,
            "excluded": p.excluded, "stored_bytes": p.stored_bytes,
        })
    };
    let phases: Vec<Value> =
        phases(c).map(|(name, ms)| json!({ "phase": name, "ms": ms })).collect();
    let raw = c.memory.seen().saturating_add(c.swap.seen()).saturating_mul(PAGE as u64);
    json!({
        "raw_bytes": raw, "last_part": c.last_part, "polled": c.io == IoMode::Polled,
        "outcome": c.outcome.name(), "source": source_name(c.source), "io": c.io.name(),
        "chunks": c.chunks, "committed": c.committed, "read_errors": c.read_errors,
        "writes": c.writes, "memory": pages(&c.memory), "swap": pages(&c.swap), "phases": phases,
    })
}
