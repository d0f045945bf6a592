//! What stands at the head of a dump: its identity, its key, the log, the tables.

use std::time::{Duration, Instant};

use heapless::String as Fixed;
use lifeboat_crypt::{DataKey, header_digest};
use lifeboat_format::bootcfg::{BootConfig, MAX_LEN};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::meta::{MetaWriter, SwapDevice, Tag};
use lifeboat_format::{Cipher, DumpHeader, FORMAT_VERSION, Id, PAGE, text_field};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::{AnyMemory, OldMemory, kmsg, notes};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::Failure;
use crate::capture::now;
use crate::console::say;
use crate::swap::Swaps;
use crate::target::Target;

/// Bytes of log text that are kept, the newest.
const LOG_MAX: usize = 2 << 20;
/// How long to wait for the kernel's random generator.
const RANDOM_WAIT: Duration = Duration::from_secs(10);

/// Everything that is written before the first page.
pub(crate) struct Head {
    pub(crate) header: DumpHeader,
    pub(crate) keys: Box<[u8; KEY_AREA_LEN]>,
    pub(crate) key: Option<DataKey>,
    pub(crate) log: String,
    pub(crate) meta: Vec<u8>,
}

impl Head {
    /// Gathers it. Only a missing key is fatal: log and release are optional and
    /// depend on the dead kernel's structures.
    pub(crate) fn gather(
        config: &BootConfig,
        memory: &AnyMemory,
        swaps: &Swaps,
        target: &Target,
    ) -> Result<Self, Failure> {
        let info = notes::vmcoreinfo(memory.notes()).map(VmcoreInfo::new);
        if info.is_none() {
            say!("head: no VMCOREINFO among the notes");
        }
        let log = match info.as_ref() {
            Some(info) => read_log(info, memory),
            None => String::new(),
        };
        let release = info.as_ref().and_then(VmcoreInfo::osrelease).unwrap_or_default();
        let dump_id: Id = *random_bytes()?;
        let entropy = random_bytes::<32>()?;
        let key = config.encrypt.then(|| data_key(config, &entropy, &dump_id));
        let header = DumpHeader {
            version: FORMAT_VERSION,
            dump_id,
            volume_id: target.volume_id(),
            number: target.plan.number,
            created: now(),
            cipher: if config.encrypt { Cipher::Aes256Gcm } else { Cipher::None },
            chunk_pages: config.chunk_pages,
            release: text_field(release),
            reason: text_field(kmsg::panic_reason(&log)),
            image: text_field(&config.image),
            key_id: key.as_ref().map(DataKey::id).unwrap_or_default(),
        };
        let keys = lifeboat_crypt::key_area(config, key.as_ref())?;
        let meta = tables(config, &header, memory, swaps)?;
        Ok(Self { header, keys, key, log, meta })
    }

    /// The reason, for the console.
    pub(crate) fn reason(&self) -> &str {
        match self.header.reason_text() {
            "" => "reason unknown",
            text => text,
        }
    }
}

fn read_log(info: &VmcoreInfo<'_>, memory: &AnyMemory) -> String {
    match render_log(info, memory) {
        Ok(log) => log,
        Err(why) => {
            say!("head: the log cannot be read: {why}");
            String::new()
        }
    }
}

fn render_log(info: &VmcoreInfo<'_>, memory: &AnyMemory) -> Result<String, Failure> {
    let (log, cut) = kmsg::read(info, &mut memory.reader()?, LOG_MAX)?;
    if cut > 0 {
        say!("head: the log's oldest {cut} records did not fit");
    }
    Ok(log)
}

/// Bytes of the kernel's generator, once it says that it is seeded. Those for the key are
/// mixed with the seed from arming, too (see `data_key`).
///
/// # Errors
/// A generator that stays unseeded for [`RANDOM_WAIT`], or does not work.
pub(crate) fn random_bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, Failure> {
    let mut out = Zeroizing::new([0u8; N]);
    let start = Instant::now();
    loop {
        match getrandom(&mut out[..], GetRandomFlags::NONBLOCK) {
            Ok(got) if got == N => return Ok(out),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
                if start.elapsed() < RANDOM_WAIT =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(_) => return Err("the kernel's random generator gave too little".into()),
            Err(e) => {
                return Err(format!(
                    "no random numbers after {} s: {e}; a key that could be guessed is no key",
                    RANDOM_WAIT.as_secs()
                )
                .into());
            }
        }
    }
}

fn data_key(config: &BootConfig, entropy: &[u8; 32], dump_id: &Id) -> DataKey {
    let seed = config.seed.as_ref().map_or(&[][..], |s| &s[..]);
    let time = now().to_le_bytes();
    DataKey::mix(&[entropy, seed, dump_id, &time])
}

/// The meta chunk's tables.
fn tables(
    config: &BootConfig,
    header: &DumpHeader,
    memory: &AnyMemory,
    swaps: &Swaps,
) -> Result<Vec<u8>, Failure> {
    let mut text: Box<Fixed<MAX_LEN>> = Box::new(Fixed::new());
    config.write(&mut *text, false).map_err(|_| "the boot configuration is too long")?;
    let ranges = memory.ranges();
    let room = memory.elfcorehdr().len() + text.len() + ranges.len() * 24 + swaps.list.len() * 1024;
    let mut buf = vec![0u8; room + 4096];
    let mut meta = MetaWriter::new(&mut buf);
    let one = |bytes| std::iter::once(bytes);
    let digest = header_digest(&header.encode());
    meta.record(Tag::HeaderDigest, one(&digest[..]))?;
    meta.record(Tag::Elfcorehdr, one(memory.elfcorehdr()))?;
    if config.memory {
        meta.ranges(ranges)?;
    }
    for (index, source) in (0u16..).zip(&swaps.list) {
        meta.swap_device(&SwapDevice {
            index,
            page_size: u32::try_from(PAGE).unwrap_or(4096),
            bytes: source.bytes(),
            text: &source.text(),
        })?;
    }
    if !config.hostname.is_empty() {
        meta.record(Tag::Hostname, one(config.hostname.as_bytes()))?;
    }
    meta.record(Tag::BootConfig, one(text.as_bytes()))?;
    let len = meta.finish();
    buf.truncate(len);
    Ok(buf)
}
