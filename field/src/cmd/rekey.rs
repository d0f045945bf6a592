//! `lifeboat rekey`: gives a dump to further recipients.
//!
//! It opens the data key with a key that fits now and appends it to the key area, wrapped
//! once more. Nobody who could open the dump loses it, and no other byte is written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat_crypt::{DataKey, Identities, Opener, Recipient};
use lifeboat_field::dump::DumpFile;
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{Cipher, CommitRecord, DumpHeader, KeyEntry, KeyKind, SlotRecord};
use lifeboat_sink::FileDev;

use super::keyareas::{self, Copy, KeyAreas, Written};
use super::opened::Source;
use super::summary::Summary;
use super::volumes::Laid;
use crate::cli::Rekey;
use crate::device::{self, Access, Found};
use crate::keyfile::{self, Terminal};
use crate::ui::{self, Context as _, Ended, Failure, Outcome, hex, safe, warn};

/// Largest file of recipients, in bytes.
const MAX_LIST: u64 = 1 << 20;

/// A dump whose key areas are to be written.
struct Target {
    name: String,
    devs: Vec<FileDev>,
    areas: KeyAreas,
    commit: Option<CommitRecord>,
}

/// Adds recipients, or repairs key areas that differ.
pub(crate) fn run(args: &Rekey) -> Ended {
    let wanted = recipients(args)?;
    let target = Target::find(args)?;
    let header = *target.header()?;
    if header.cipher == Cipher::None {
        return Err(Failure::new(format!("{} was taken in the clear: it has no key", target.name))
            .hint("anybody can read it; encrypt the file itself, for example with `age -r`"));
    }
    let ids = keyfile::identities(&args.identity)?.ok_or_else(|| {
        Failure::usage("no key was given").hint("name a key file that opens the dump with -i")
    })?;
    let key = target.unlock(&header, &ids)?;
    let salvaged = target.areas.newest().is_some_and(|n| n.salvaged);
    if salvaged {
        warn(
            "no key area is sound: its entries are kept as far as they hold together, but an entry may be torn; name every recipient again",
        );
    }
    let known = if salvaged { Vec::new() } else { target.prints() };
    let (old, new): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|r| known.contains(&r.fingerprint()));
    if !target.areas.uneven() && new.is_empty() && old.is_empty() {
        return Err(Failure::usage("no recipient was given")
            .hint("name one with --to or --to-file; all key areas are sound and equal"));
    }
    if !old.is_empty() && (!new.is_empty() || !target.areas.uneven()) {
        let list: Vec<String> = old.iter().map(shown).collect();
        return Err(Failure::new(format!(
            "{} can be opened already by {}; nothing was written",
            target.name,
            list.join(", ")
        ))
        .hint("leave out those; `lifeboat list` prints all fingerprints"));
    }
    let bytes = target.with(&key, &new)?;
    let written = target.areas.write(&target.devs, &bytes).map_err(|(place, e)| {
        Failure::of(&e)
            .context(format!("{}: {} of the key area", target.name, place.name))
            .hint("whoever could open the dump still can; pull it to a sound disk and try there")
    })?;
    report(&target, &new, &written);
    Ok(Outcome::Good)
}

fn shown(r: &Recipient) -> String {
    format!("{} ({})", safe(r.text()), hex(&r.fingerprint()))
}

fn report(target: &Target, new: &[Recipient], written: &[(&Copy, Written)]) {
    for (copy, became) in written {
        let name = &copy.place.name;
        let fault = copy.fault.as_deref().unwrap_or("it was behind the other");
        match became {
            Written::Renewed => {}
            Written::Repaired => warn(format!("the {name} of the key area was repaired: {fault}")),
            Written::Lost(why) => warn(format!(
                "the {name} of the key area is damaged ({fault}) and cannot be written ({why}): pull the dump, to have it whole elsewhere"
            )),
        }
    }
    let done = written.iter().filter(|(_, w)| !matches!(w, Written::Lost(_))).count();
    ui::say!("{}: {done} key areas written, nothing else", target.name);
    for r in new {
        ui::say!("  opens for    {}", shown(r));
    }
    let added = new.iter().map(Recipient::fingerprint);
    let all: Vec<String> = target.prints().into_iter().chain(added).map(|f| hex(&f)).collect();
    ui::say!("  recipients   {}", all.join(" "));
}

/// Those of `--to` and `--to-file`, each once.
fn recipients(args: &Rekey) -> Result<Vec<Recipient>, Failure> {
    let mut out: Vec<Recipient> = Vec::new();
    let mut add = |r: Recipient| {
        if !out.contains(&r) {
            out.push(r);
        }
    };
    for text in &args.to {
        add(Recipient::parse(text).context("--to")?);
    }
    for path in &args.to_file {
        for (n, line) in list(path)?.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                add(Recipient::parse(line).context(format!("{}:{}", path.display(), n + 1))?);
            }
        }
    }
    Ok(out)
}

fn list(path: &Path) -> Result<String, Failure> {
    let len = fs::metadata(path).context(path.display())?.len();
    if len > MAX_LIST {
        return Err(Failure::new(format!("{}: too long for a list", path.display()))
            .hint("a list of recipients has one a line"));
    }
    fs::read_to_string(path).context(path.display())
}

impl Target {
    fn find(args: &Rekey) -> Result<Self, Failure> {
        let source = Source {
            dev: &args.dev,
            partition: args.partition.as_deref(),
            with: &args.with,
            which: args.dump,
        };
        let dump = source.summary()?;
        for words in super::absent_words(&dump) {
            warn(words);
        }
        match &dump.laid {
            Some(laid) => Self::laid(&dump, laid),
            None => Self::file(args, dump),
        }
    }

    /// A pulled dump.
    fn file(args: &Rekey, dump: Summary) -> Result<Self, Failure> {
        let found = device::find(&args.dev, args.partition.as_deref())?;
        let (Found::Dump(window) | Found::Volume(window)) = found;
        let name = dump.name;
        // Refuses a file that something was cut off or appended to.
        let dump = DumpFile::open(Arc::clone(&dump.source) as _).context(&name)?;
        let devs = vec![window.reopen(Access::Write)?.dev()?];
        let commit = dump.committed().ok().copied();
        let places = keyareas::of_file(commit.as_ref());
        let areas = KeyAreas::read(&devs, Some(&dump.header().dump_id), places);
        Ok(Self { name, devs, areas, commit })
    }

    /// A dump on volumes, or those parts of it that are there.
    fn laid(dump: &Summary, laid: &Laid) -> Result<Self, Failure> {
        // One device a part: a volume twice is no harm.
        let mut devs = Vec::new();
        for part in laid.entered() {
            let window = part.window.reopen(Access::Write)?;
            super::writable(&window)?;
            devs.push(window.dev()?);
        }
        let parts: Vec<SlotRecord> = laid.entered().map(|p| p.record).collect();
        let places = keyareas::of_parts(&parts, dump.commit.as_ref());
        let id = parts.first().map(|p| p.dump_id);
        let areas = KeyAreas::read(&devs, id.as_ref(), places);
        Ok(Self { name: dump.name.clone(), devs, areas, commit: dump.commit })
    }

    fn header(&self) -> Result<&DumpHeader, Failure> {
        self.areas.header().ok_or_else(|| {
            Failure::new(format!("{}: no header is sound", self.name))
                .hint("`lifeboat verify` shows what is damaged; pull the dump again")
        })
    }

    fn prints(&self) -> Vec<[u8; 8]> {
        let entries = self.areas.newest().map(|n| n.entries).unwrap_or_default();
        entries.iter().flat_map(|e| e.fingerprints.iter().copied()).collect()
    }

    /// The data key; it is the dump's own, as far as header and commit record can tell.
    fn unlock(&self, header: &DumpHeader, ids: &Identities) -> Result<DataKey, Failure> {
        let newest = self.areas.newest().ok_or_else(|| {
            let faults: Vec<&str> =
                self.areas.copies.iter().filter_map(|c| c.fault.as_deref()).collect();
            Failure::new(format!(
                "{}: every key area is damaged ({})",
                self.name,
                faults.join("; ")
            ))
            .hint("pull the dump again from its volume, or look for another copy")
        })?;
        let id = (header.key_id != [0; 32]).then_some(&header.key_id);
        let key = lifeboat_crypt::open(newest.entries, ids, id).context(&self.name)?;
        if let Some(commit) = &self.commit {
            let opener = Opener::new(header.cipher, Some(&key)).context(&self.name)?;
            opener.check_commit(commit).context(&self.name)?;
        }
        Ok(key)
    }

    /// The key area with an entry for `new`.
    fn with(&self, key: &DataKey, new: &[Recipient]) -> Result<Box<[u8; KEY_AREA_LEN]>, Failure> {
        if new.is_empty() {
            return self.areas.with(None).context(&self.name);
        }
        let wrapped = lifeboat_crypt::wrap_here(key, new, &Terminal).plain()?;
        let fingerprints: Vec<[u8; 8]> = new.iter().map(Recipient::fingerprint).collect();
        let entry =
            KeyEntry { kind: KeyKind::Data, fingerprints: &fingerprints, wrapped: &wrapped };
        self.areas.with(Some(entry)).map_err(|_| {
            Failure::new(format!(
                "{}: the key area is full: it has {} recipients and no room for {} more",
                self.name,
                self.prints().len(),
                new.len()
            ))
            .hint("name several recipients in one call, which takes less room, and age1… rather than ssh-rsa keys; at most 32 fit")
        })
    }
}
