//! What a dump of a vmcore begins with: header, key area, log and tables.

use lifeboat_crypt::{DataKey, header_digest, key_area};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::meta::{MetaWriter, Tag};
use lifeboat_format::{Cipher, DumpHeader, FORMAT_VERSION, Id, text_field};
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::{OldMemory, kmsg, notes};

use crate::ui::{self, Context as _, Failure, warn};

/// Longest log that is taken, in bytes.
const LOG_MAX: usize = 4 << 20;

pub(super) struct Head {
    pub(super) header: DumpHeader,
    pub(super) keys: Box<[u8; KEY_AREA_LEN]>,
    pub(super) key: Option<DataKey>,
    pub(super) log: String,
    pub(super) meta: Vec<u8>,
}

impl Head {
    pub(super) fn make(config: &BootConfig, memory: &Vmcore) -> Result<Self, Failure> {
        let info = notes::vmcoreinfo(memory.notes()).map(VmcoreInfo::new);
        let log = info.as_ref().map(|info| log(info, memory)).unwrap_or_default();
        let release = info.as_ref().and_then(VmcoreInfo::osrelease).unwrap_or_default();
        let mut dump_id: Id = [0; 16];
        getrandom::fill(&mut dump_id).context("random numbers")?;
        let key = config.encrypt.then(|| data_key(&dump_id)).transpose()?;
        let keys = key_area(config, key.as_ref()).map_err(|e| Failure::of(&e))?;
        let header = DumpHeader {
            version: FORMAT_VERSION,
            dump_id,
            volume_id: [0; 16],
            number: 1,
            created: ui::now(),
            cipher: if key.is_some() { Cipher::Aes256Gcm } else { Cipher::None },
            chunk_pages: config.chunk_pages,
            release: text_field(release),
            reason: text_field(kmsg::panic_reason(&log)),
            image: text_field(concat!("lifeboat ", env!("CARGO_PKG_VERSION"))),
            key_id: key.as_ref().map(DataKey::id).unwrap_or_default(),
        };
        let meta = tables(&header, memory)?;
        Ok(Self { header, keys, key, log, meta })
    }
}

/// A fresh data key.
fn data_key(dump_id: &Id) -> Result<DataKey, Failure> {
    let mut entropy = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut entropy[..]).context("random numbers")?;
    Ok(DataKey::mix(&[&entropy[..], &dump_id[..]]))
}

/// The dead kernel's log; a vmcore without one is still worth keeping.
fn log(info: &VmcoreInfo<'_>, memory: &Vmcore) -> String {
    let read = || -> Result<(String, u64), Box<dyn std::error::Error>> {
        Ok(kmsg::read(info, &mut memory.reader()?, LOG_MAX)?)
    };
    match read() {
        Ok((log, 0)) => log,
        Ok((log, cut)) => {
            warn(format!("the log's oldest {cut} records did not fit"));
            log
        }
        Err(why) => {
            warn(format!("the log cannot be read: {why}"));
            String::new()
        }
    }
}

fn tables(header: &DumpHeader, memory: &Vmcore) -> Result<Vec<u8>, Failure> {
    let ranges = memory.ranges();
    let mut buf = vec![0u8; memory.elfcorehdr().len() + ranges.len() * 24 + 4096];
    let mut meta = MetaWriter::new(&mut buf);
    let one = |bytes| std::iter::once(bytes);
    let digest = header_digest(&header.encode());
    let mut write = || {
        meta.record(Tag::HeaderDigest, one(&digest[..]))?;
        meta.record(Tag::Elfcorehdr, one(memory.elfcorehdr()))?;
        meta.ranges(ranges)
    };
    write().context("the tables")?;
    let len = meta.finish();
    buf.truncate(len);
    Ok(buf)
}
