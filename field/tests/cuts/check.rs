//! Reads what a cut left, with the real reader, and compares it with the truth.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lifeboat_crypt::Identities;
use lifeboat_field::dump::{
    DumpError, DumpFile, Extent, OpenDump, Page, PageSource, Parts, Scanner, Step,
};
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    BLOCK, ChunkKind, Id, IndexEntry, PAGE, PartBlock, Pfn, SlotRecord, SlotState,
};
use lifeboat_sink::{FileDev, Placement, Volume};

use super::sim::Bytes;
use super::{LOG, NOTES, Setup, page};

const HEAD: u64 = PART_HEAD as u64;

/// The bytes of disks in files, so that the reader reads them as it reads a device.
pub struct Screen {
    files: Vec<File>,
    shown: Vec<Bytes>,
}

impl Screen {
    pub fn new(like: &[Bytes]) -> Self {
        let file = |b: &Bytes| {
            let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
            file.set_len(b.len()).unwrap();
            file
        };
        let shown = like.iter().map(|b| Bytes::new(b.len())).collect();
        Self { files: like.iter().map(file).collect(), shown }
    }

    pub fn show(&mut self, images: Vec<Bytes>) {
        for ((file, old), new) in self.files.iter().zip(&self.shown).zip(&images) {
            for (at, bytes) in new.unlike(old) {
                file.write_all_at(bytes.unwrap_or(&[0; 64 << 10]), at).unwrap();
            }
        }
        self.shown = images;
    }

    pub fn volumes(&self) -> Vec<Volume<FileDev>> {
        let volume = |(file, bytes): (&File, &Bytes)| {
            let len = bytes.len();
            let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
            Volume::open(dev, Placement { start: 0, len }).unwrap()
        };
        self.files.iter().zip(&self.shown).map(volume).collect()
    }

    /// The slots of a dump that count, by part, as FORMAT.md says: (disk, record, base).
    pub fn parts(&self, volumes: &[Volume<FileDev>], id: &Id) -> Vec<(usize, SlotRecord)> {
        let mut out = Vec::new();
        for (n, volume) in volumes.iter().enumerate() {
            for (_, mut r) in volume.dumps().into_iter().filter(|(_, r)| r.dump_id == *id) {
                if r.part > 0 {
                    let mut block = [0; BLOCK];
                    self.shown[n].read(r.start.0, &mut block);
                    let Ok(head) = PartBlock::decode(&block) else { continue };
                    let ours = (head.dump_id, head.part) == (*id, r.part);
                    if !ours || head.volume_id != volume.superblock().volume_id {
                        continue;
                    }
                    r.base = head.base;
                }
                out.push((n, r));
            }
        }
        out.sort_by_key(|(_, r)| r.part);
        out
    }

    pub fn source(&self, parts: &[(usize, SlotRecord)]) -> Parts {
        let extent = |(n, r): &(usize, SlotRecord)| {
            let (all, head) = (r.extent(), if r.part == 0 { 0 } else { HEAD });
            Extent {
                base: r.base,
                len: (all.end - all.start).saturating_sub(head),
                file: Arc::new(self.files[*n].try_clone().unwrap()),
                at: all.start + head,
                head: (r.part > 0).then_some(all.start + BLOCK as u64),
            }
        };
        Parts::new(parts.iter().map(extent).collect())
    }
}

/// A capture that ended: what a cut of it may leave.
pub struct Truth<'a> {
    pub setup: &'a Setup,
    pub id: Id,
    identity: &'a Identities,
    /// All chunks, and whether they hold pages.
    chunks: Vec<(Range<u64>, IndexEntry)>,
    bytes: Vec<u8>,
    /// Logical bytes and where they came to lie: disk and byte.
    places: Vec<(Range<u64>, usize, u64)>,
}

/// What a cut left of a dump.
#[derive(Debug, Default, Clone, Copy)]
pub struct Left {
    pub cuts: u64,
    /// Not even a slot, or no header.
    pub nothing: u64,
    pub chunks: u64,
    pub pages: u64,
    pub complete: u64,
}

impl Left {
    pub fn add(&mut self, o: &Self) {
        self.cuts += o.cuts;
        self.nothing += o.nothing;
        self.chunks += o.chunks;
        self.pages += o.pages;
        self.complete += o.complete;
    }
}

impl<'a> Truth<'a> {
    pub fn of(setup: &'a Setup, identity: &'a Identities, end: &[Bytes]) -> Self {
        let id = [setup.id; 16];
        let mut screen = Screen::new(end);
        screen.show(end.to_vec());
        let parts = screen.parts(&screen.volumes(), &id);
        let mut places = Vec::new();
        for (at, (disk, r)) in parts.iter().enumerate() {
            let (all, head) = (r.extent(), if r.part == 0 { 0 } else { HEAD });
            let end = r.base + (all.end - all.start - head);
            let end = parts.get(at + 1).map_or(end, |(_, next)| next.base.min(end));
            places.push((r.base..end, *disk, all.start + head));
        }
        let len = places.last().unwrap().0.end;
        let mut bytes = vec![0; len as usize];
        for (logical, disk, at) in &places {
            end[*disk].read(*at, &mut bytes[logical.start as usize..logical.end as usize]);
        }
        let bytes_at = Arc::new(bytes.clone());
        let file = DumpFile::open(Arc::clone(&bytes_at) as _).unwrap();
        let verdict = file.verify(Some(&file.opener(Some(identity)).unwrap()), &|_| {});
        assert!(verdict.is_sound() && verdict.is_complete(), "{:?}", verdict.findings);
        let mut scanner = Scanner::new(&*bytes_at, id, HEAD - BLOCK as u64, file.data_end());
        let mut chunks = Vec::new();
        while let Some(step) = scanner.next() {
            let Step::Chunk(chunk) = step else { continue };
            let start = chunk.header.offset.0;
            let entry = IndexEntry::of(&chunk.header);
            chunks.push((start..start + chunk.header.frame_len(), entry));
        }
        Self { setup, id, identity, chunks, bytes, places }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The disks of its parts.
    pub fn disks(&self) -> Vec<usize> {
        self.places.iter().map(|(_, disk, _)| *disk).collect()
    }

    /// Whether logical bytes are on the medium where they belong.
    fn arrived(&self, images: &[Bytes], range: &Range<u64>) -> bool {
        let mut buf = Vec::new();
        self.places.iter().all(|(logical, disk, at)| {
            let (from, to) = (range.start.max(logical.start), range.end.min(logical.end));
            if from >= to {
                return true;
            }
            buf.resize((to - from) as usize, 0);
            images[*disk].read(at + (from - logical.start), &mut buf);
            buf == self.bytes[from as usize..to as usize]
        })
    }

    /// Checks all that can be read of the dump; `exact`: nothing but the chunks that
    /// arrived where they belong can be there.
    pub fn check(&self, screen: &Screen, deep: bool, exact: bool) -> Left {
        let images = &screen.shown;
        let volumes = screen.volumes();
        for volume in &volumes {
            let bad = volume.slots().iter().position(Result::is_err);
            assert!(bad.is_none(), "slot {bad:?} is damaged");
        }
        let mut left = Left { cuts: 1, ..Left::default() };
        let arrived: Vec<&(Range<u64>, IndexEntry)> =
            self.chunks.iter().filter(|(range, _)| self.arrived(images, range)).collect();
        let end = self.bytes.len() as u64;
        let committed = self.arrived(images, &(end - BLOCK as u64..end));
        // What a disk had acknowledged, not flushed, and could not give back when it failed
        // may be lost: then the dump says so. Otherwise a commit record means that all is there.
        assert!(!exact || !committed || self.arrived(images, &(0..end)), "committed too early");
        let parts = screen.parts(&volumes, &self.id);
        if parts.is_empty() {
            assert!(arrived.is_empty(), "chunks without a slot");
            left.nothing = 1;
            return left;
        }
        let state = parts.last().unwrap().1.state;
        match state {
            SlotState::Complete => assert!(committed, "complete, but not all is there"),
            SlotState::Capturing | SlotState::Continued => {}
            other => panic!("{other:?}"),
        }
        let header = self.arrived(images, &(0..HEAD - BLOCK as u64));
        let file = match DumpFile::open_as(Arc::new(screen.source(&parts)), &self.id) {
            Ok(file) => file,
            Err(DumpError::NotADump { .. }) if !header => {
                left.nothing = 1;
                return left;
            }
            Err(e) => panic!("{state:?}, header {header}: {e}"),
        };
        // A disk that failed may have taken the end before it was written elsewhere.
        let told = file.committed().is_ok();
        assert!(told == committed || (told && !exact), "{state:?}");
        let opener = match file.opener(Some(self.identity)) {
            Ok(opener) => opener,
            Err(e) => {
                assert!(!header, "the key is lost: {e}");
                left.nothing = 1;
                return left;
            }
        };
        let verdict = file.verify(Some(&opener), &|_| {});
        let good = arrived.len() as u64;
        assert!(verdict.good_chunks >= good, "{} of {good} are good", verdict.good_chunks);
        assert!(!exact || verdict.good_chunks == good, "{} of {good} good", verdict.good_chunks);
        let all = good == self.chunks.len() as u64 && header;
        assert!(!exact || !committed || verdict.is_sound() == all, "{:?}", verdict.findings);
        assert!(if verdict.is_complete() { told } else { !exact || !committed || !all });
        (left.chunks, left.complete) = (good, u64::from(committed));
        let dump = OpenDump::unlock(file, Some(self.identity)).unwrap();
        self.check_chunks(&dump, &arrived);
        if deep {
            left.pages = self.check_pages(&dump, &arrived);
        }
        left
    }

    /// What is listed is true, and what arrived is listed.
    fn check_chunks(&self, dump: &OpenDump, arrived: &[&(Range<u64>, IndexEntry)]) {
        let memory = dump.memory();
        let swap = dump.swap(0).ok();
        let listed = |e: &IndexEntry| match e.kind {
            ChunkKind::Memory => memory.entries().contains(e),
            ChunkKind::Swap => swap.is_some_and(|s| s.entries().contains(e)),
            _ => true,
        };
        for (range, entry) in arrived {
            assert!(listed(entry), "the chunk at {range:?} arrived, but is not found");
        }
        for entry in memory.entries().iter().chain(swap.iter().flat_map(|s| s.entries())) {
            assert!(self.chunks.iter().any(|(_, e)| e == entry), "{entry:?} was never written");
        }
        let has = |kind| arrived.iter().any(|(_, e)| e.kind == kind);
        for (kind, text, truth) in
            [(ChunkKind::Log, dump.log(), LOG), (ChunkKind::Notes, dump.notes(), NOTES)]
        {
            match text {
                Ok(text) if !text.is_empty() || has(kind) => assert_eq!(text, truth),
                Ok(_) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Every page is what it was, or is said to be missing. Gives how many are there.
    fn check_pages(&self, dump: &OpenDump, arrived: &[&(Range<u64>, IndexEntry)]) -> u64 {
        let (mut want, mut there) = (vec![0; PAGE], 0);
        let swap = dump.swap(0).ok();
        let memory = (false, 16..16 + self.setup.pages.0, Some(dump.memory()));
        let whole = arrived.iter().filter(|(_, e)| e.kind.is_pages()).count()
            == self.chunks.iter().filter(|(_, e)| e.kind.is_pages()).count();
        for (is_swap, numbers, space) in [memory, (true, 0..self.setup.pages.1, swap)] {
            let Some(space) = space else { continue };
            for number in numbers {
                let data = page(is_swap, number, &mut want);
                let found = match space.page(Pfn(number)) {
                    // Listed, and lost: it says so.
                    Err(_) if !whole => continue,
                    other => other.unwrap(),
                };
                match found {
                    Page::Data(bytes) => assert!(bytes[..] == want[..] && data, "page {number}"),
                    Page::Fill(word) => {
                        assert_eq!(want, word.to_le_bytes().repeat(512), "page {number}");
                    }
                    Page::Zero => assert!(!data, "page {number} is not zero"),
                    Page::NotCaptured => {
                        assert!(!whole, "page {number} is lost");
                        continue;
                    }
                    other => panic!("page {number}: {other:?}"),
                }
                there += 1;
            }
        }
        there
    }
}
