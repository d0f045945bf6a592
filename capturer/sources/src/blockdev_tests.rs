//! A machine's sysfs and disks, laid out in a directory.

use super::*;
use crate::gpt::tests::gpt_image;

/// A fake `/sys` and `/dev` with one or more disks that hold the same image.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for d in ["sys/class/block", "sys/devices", "dev"] {
            fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        Self { dir }
    }

    fn device(&self, under: &str, name: &str, attributes: &[(&str, &str)]) {
        let dir = self.dir.path().join("sys/devices").join(under).join(name);
        fs::create_dir_all(dir.join("queue")).unwrap();
        for (key, value) in attributes {
            fs::write(dir.join(key), format!("{value}\n")).unwrap();
        }
        let link = self.dir.path().join("sys/class/block").join(name);
        std::os::unix::fs::symlink(dir, link).unwrap();
    }

    /// A disk of these bytes with partitions `(number, first sector, sectors, uevent)`.
    pub(crate) fn disk(&self, name: &str, id: &str, bytes: &[u8], parts: &[(u32, u64, u64, &str)]) {
        let size = (bytes.len() / 512).to_string();
        let attributes =
            [("size", &*size), ("queue/logical_block_size", "512"), ("wwid", id), ("uevent", "")];
        self.device("", name, &attributes[..if id.is_empty() { 2 } else { 4 }]);
        fs::write(self.dir.path().join("dev").join(name), bytes).unwrap();
        for (n, start, len, uevent) in parts {
            let part = format!("{name}p{n}");
            let (n, s, l) = (n.to_string(), start.to_string(), len.to_string());
            let attributes =
                [("partition", &*n), ("start", &*s), ("size", &*l), ("uevent", *uevent)];
            self.device(name, &part, &attributes);
            let at = usize::try_from(start * 512).unwrap();
            let end = at + usize::try_from(len * 512).unwrap();
            fs::write(self.dir.path().join("dev").join(part), &bytes[at..end]).unwrap();
        }
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let root = self.dir.path();
        enumerate_in(&root.join("sys"), &root.join("dev")).unwrap()
    }
}

pub(crate) const PARTS: &[(u32, u64, u64, &str)] =
    &[(1, 2048, 8192, "DEVNAME=x\nPARTNAME=swap"), (3, 20480, 4096, "PARTN=3")];

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

fn found(blocks: &[Block], text: &str) -> String {
    find(blocks, &selector(text)).unwrap().name.clone()
}

#[test]
fn partitions_are_described_and_found() {
    let machine = Machine::new();
    machine.disk("nvme0n1", "eui.1", &gpt_image(), PARTS);
    machine.disk("sdb", "", &[0; 8192], &[]);
    machine.device("", "zram0", &[("size", "100")]);
    machine.device("", "sr0", &[("size", "0")]);
    let blocks = machine.blocks();
    let names: Vec<_> = blocks.iter().map(|b| &*b.name).collect();
    assert_eq!(names, ["nvme0n1", "nvme0n1p1", "nvme0n1p3", "sdb"]);
    assert!(blocks[0].has_partitions && !blocks[3].has_partitions);
    let dump = &blocks[2];
    assert_eq!((dump.start, dump.len, dump.logical_block), (10 << 20, 2 << 20, 512));
    assert_eq!((&*dump.disk, dump.partition), ("nvme0n1", Some(3)));
    assert_eq!(dump.path, machine.dir.path().join("dev/nvme0n1p3"));
    for text in [
        "partlabel=Rettung\u{df}boot \u{1f6a4}",
        "partuuid=AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee",
        "parttype=0fc63daf-8483-4772-8e79-3d69d8477de4",
    ] {
        assert_eq!(found(&blocks, text), "nvme0n1p3");
    }
    let missing = find(&blocks, &selector("partlabel=nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nvme0n1p3") && missing.contains("\nhint: "), "{missing}");
}

#[test]
fn two_of_a_name_are_refused_unless_they_are_one_disk() {
    let machine = Machine::new();
    let image = gpt_image();
    machine.disk("sda", "naa.1", &image, PARTS);
    machine.disk("sdb", "naa.1", &image, PARTS);
    assert_eq!(found(&machine.blocks(), "partlabel=swap"), "sdap1");
    machine.disk("sdc", "naa.2", &image, PARTS);
    match find(&machine.blocks(), &selector("partlabel=swap")).unwrap_err() {
        FindError::Ambiguous { found, .. } => {
            assert!(["sdap1", "sdbp1", "sdcp1"].iter().all(|n| found.contains(n)), "{found}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_table_leaves_what_the_kernel_says() {
    let machine = Machine::new();
    let mut image = gpt_image();
    image[512] = 0;
    let last = image.len() - 512;
    image[last] = 0;
    machine.disk("sda", "", &image, PARTS);
    let blocks = machine.blocks();
    assert!(blocks[0].table_error.as_deref().unwrap().contains("damaged"));
    assert_eq!(found(&blocks, "partlabel=swap"), "sdap1");
    assert_eq!(blocks[1].partuuid, None);
}

#[test]
fn a_table_that_disagrees_with_the_kernel_is_not_believed() {
    let machine = Machine::new();
    machine.disk("sda", "", &gpt_image(), &[(1, 2048, 8184, ""), (3, 20488, 4096, "")]);
    assert!(machine.blocks().iter().all(|b| b.partuuid.is_none()));
}

#[test]
fn this_machine_can_be_enumerated() {
    for block in enumerate().unwrap() {
        assert!(block.len > 0 && block.start.checked_add(block.len).is_some());
    }
}

#[test]
fn unaligned_reads_come_through_aligned_ones() {
    let bytes: Vec<u8> =
        (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(file.path(), &bytes).unwrap();
    let mut disk = DiskReader::open(file.path()).unwrap();
    for (at, len) in [(0, 1), (4095, 2), (1, 150_000), (199_999, 1), (65_536, 4096)] {
        let mut buf = vec![0; len];
        disk.read_at(at as u64, &mut buf).unwrap();
        assert_eq!(buf, bytes[at..at + len]);
    }
    assert!(disk.read_at(199_990, &mut [0; 11]).is_err());
    assert!(disk.read_at(u64::MAX - 5, &mut [0; 4]).is_err());
}
