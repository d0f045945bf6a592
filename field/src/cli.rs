//! The command line: what can be said, in argh's words. No behaviour here.

pub(crate) mod inquest;

use std::path::PathBuf;

use argh::FromArgs;

/// Lifeboat: crash dumps on a raw partition, encrypted, pulled and opened.
///
/// DEV is a block device, a raw partition image, a pulled dump, or a partition of a
/// whole-disk image: DISK.img:PARTLABEL or DISK.img:NUMBER.
/// Exit codes: 0 good, 1 failed, 2 usage, 3 a dump is there but incomplete.
#[derive(FromArgs, Debug)]
pub(crate) struct Cli {
    /// print the version and end
    #[argh(switch)]
    pub(crate) version: bool,
    #[argh(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum Command {
    Keygen(Keygen),
    Format(Format),
    List(List),
    Pull(Pull),
    Verify(Verify),
    Export(Export),
    Clear(Clear),
    Rekey(Rekey),
    Capture(Capture),
    Arm(Arm),
    Disarm(Disarm),
    Status(Status),
    Ps(inquest::Ps),
    Maps(inquest::Maps),
    Core(inquest::Core),
    Libs(inquest::Libs),
    Extract(inquest::Extract),
}

/// make an identity (secret key) that opens dumps; keep it away from the server
///
/// Keys of ssh-keygen (ed25519, or RSA of 2048 to 4096 bits) serve as well: name the line
/// of the .pub file as recipient and the private key with -i.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "keygen")]
pub(crate) struct Keygen {
    /// file for the identity, mode 0600 (standard output if left out)
    #[argh(option, short = 'o')]
    pub(crate) output: Option<PathBuf>,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// make a partition ready to take dumps
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "format")]
pub(crate) struct Format {
    /// the partition, see `lifeboat --help`
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// most dumps that are kept, 1 to 64 (default 8)
    #[argh(option, default = "8")]
    pub(crate) max_dumps: u32,
    /// a label of at most 64 bytes
    #[argh(option, default = "String::new()")]
    pub(crate) label: String,
    /// overwrite a foreign signature or dumps (never a device that is in use)
    #[argh(switch)]
    pub(crate) force: bool,
}

/// make a dump of an ELF vmcore file, as the crash kernel would
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "capture")]
pub(crate) struct Capture {
    /// the vmcore
    #[argh(option)]
    pub(crate) from: PathBuf,
    /// file to write
    #[argh(option)]
    pub(crate) to: PathBuf,
    /// who can open the dump: age1…, or the line of an ssh public key; may be repeated
    #[argh(option)]
    pub(crate) recipient: Vec<String>,
    /// do not encrypt
    #[argh(switch)]
    pub(crate) clear: bool,
    /// adaptive (default): the best of store, lz4, zstd 1 and zstd 3 at each moment;
    /// or one of zstd, lz4, store
    #[argh(option, default = "PackWord::Adaptive")]
    pub(crate) codec: PackWord,
    /// zstd level, -50 to 19 (default 1)
    #[argh(option)]
    pub(crate) level: Option<i32>,
    /// pages compressed together, 1 to 1024 (default 64)
    #[argh(option, default = "64")]
    pub(crate) chunk_pages: u32,
    /// compressing threads, at most 64 (default: one a CPU)
    #[argh(option, default = "0")]
    pub(crate) workers: u32,
    /// memory of the table of pages that were stored already, in KiB, at most 1048576; 0
    /// stores identical pages each time (default 4096)
    #[argh(option, default = "lifeboat_format::bootcfg::DEDUP_KIB")]
    pub(crate) dedup_kib: u32,
    /// pages to leave out: some of free, cache, cache-private, user, offline, hwpoison,
    /// with commas between (default: none but those of zeros)
    #[argh(option)]
    pub(crate) exclude: Option<String>,
    /// write no faster than a disk of so many million bytes a second
    #[argh(option, default = "0")]
    pub(crate) throttle_mbs: u32,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// `--codec`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackWord {
    Adaptive,
    Zstd,
    Lz4,
    Store,
}

impl std::str::FromStr for PackWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "zstd" => Ok(Self::Zstd),
            "lz4" => Ok(Self::Lz4),
            "store" => Ok(Self::Store),
            _ => Err("a codec is adaptive, zstd, lz4 or store"),
        }
    }
}

/// list the dumps on volumes, disks or in a pulled file
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub(crate) struct List {
    /// devices or files; parts of a dump on several of them are shown together
    #[argh(positional)]
    pub(crate) dev: Vec<String>,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// search the whole device for dumps and parts that no slot tells of
    #[argh(switch)]
    pub(crate) scan: bool,
    /// machine-readable output
    #[argh(switch)]
    pub(crate) json: bool,
}

/// copy a dump off a volume, byte for byte, and mark it pulled
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "pull")]
pub(crate) struct Pull {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// take the dump whose header lies at this byte of DEV, as `list --scan` prints it
    #[argh(option)]
    pub(crate) at: Option<u64>,
    /// file to write
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// check a dump: checksums without a key, authenticity and contents with one
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "verify")]
pub(crate) struct Verify {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// key file: an age identity file (`lifeboat keygen`) or an OpenSSH private key
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// machine-readable output
    #[argh(switch)]
    pub(crate) json: bool,
}

/// take the contents out of a dump
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "export")]
pub(crate) struct Export {
    #[argh(subcommand)]
    pub(crate) what: ExportWhat,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum ExportWhat {
    Vmcore(ExportVmcore),
    Swap(ExportSwap),
    Log(ExportLog),
    Notes(ExportNotes),
}

/// memory as a vmcore for crash, drgn and gdb
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "vmcore")]
pub(crate) struct ExportVmcore {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// file to write; `-` writes an ELF vmcore to standard output, for a pipe
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// elf (default), kdump (kdump-compressed, zlib) or kdump-zstd
    #[argh(option, default = "VmcoreFormat::Elf")]
    pub(crate) format: VmcoreFormat,
    /// leave out damaged chunks instead of failing; they are reported
    #[argh(switch)]
    pub(crate) skip_damaged: bool,
    /// file for a list of the pages that the output lacks: FIRST-BYTE END-BYTE WHY a line
    #[argh(option)]
    pub(crate) missing: Option<PathBuf>,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// a swap device as a raw image
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "swap")]
pub(crate) struct ExportSwap {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// which swap device of the dump, from 0; needed when there are several
    #[argh(option)]
    pub(crate) device: Option<u16>,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// file to write
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// leave out damaged chunks instead of failing; they are reported
    #[argh(switch)]
    pub(crate) skip_damaged: bool,
    /// file for a list of the pages that the output lacks: FIRST-BYTE END-BYTE WHY a line
    #[argh(option)]
    pub(crate) missing: Option<PathBuf>,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// the dead kernel's log as text
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "log")]
pub(crate) struct ExportLog {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// file to write (standard output if left out)
    #[argh(option, short = 'o')]
    pub(crate) output: Option<PathBuf>,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// the ELF notes (NT_PRSTATUS of each CPU, VMCOREINFO), verbatim
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "notes")]
pub(crate) struct ExportNotes {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// file to write
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// overwrite the file
    #[argh(switch)]
    pub(crate) force: bool,
}

/// give up a dump; its space is free for the next
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "clear")]
pub(crate) struct Clear {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest`
    #[argh(option)]
    pub(crate) dump: Which,
    /// clear it though nobody pulled it
    #[argh(switch)]
    pub(crate) force: bool,
}

/// give a dump to further recipients; nothing but its key areas is written
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "rekey")]
pub(crate) struct Rekey {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, short = 'n', default = "Which::Latest")]
    pub(crate) dump: Which,
    /// key file that opens the dump now: an age identity file or an OpenSSH private key
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// a recipient who shall open it too: age1…, `ssh-ed25519 …`, `ssh-rsa …`, or a
    /// plugin's; may be repeated
    #[argh(option)]
    pub(crate) to: Vec<String>,
    /// a file of recipients, one a line, such as a .pub file; may be repeated
    #[argh(option)]
    pub(crate) to_file: Vec<PathBuf>,
}

/// load the crash kernel, so that a panic ends in a dump
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "arm")]
pub(crate) struct Arm {
    /// image directory, as `make image` leaves it in out/BOARD
    #[argh(option)]
    pub(crate) image: PathBuf,
    /// site settings (TOML) laid over the image's profile
    #[argh(option)]
    pub(crate) site: Option<PathBuf>,
    /// where to write: partlabel=, partuuid= or parttype=; may be repeated, first found wins
    #[argh(option)]
    pub(crate) target: Vec<String>,
    /// a recipient who may open the dump: age1…, `ssh-ed25519 …`, `ssh-rsa …`, or a plugin's
    /// (age1NAME1…); may be repeated
    #[argh(option)]
    pub(crate) recipient: Vec<String>,
    /// swap to capture: auto, none, or a selector such as partlabel=swap; may be repeated
    #[argh(option)]
    pub(crate) swap: Vec<String>,
    /// text to append to the crash kernel's command line
    #[argh(option)]
    pub(crate) cmdline_append: Option<String>,
    /// arm although the target is missing or fails its guard now
    #[argh(switch)]
    pub(crate) force: bool,
    /// for tests: a fault that the crash kernel's PID 1 plays
    #[argh(option)]
    pub(crate) dangerously_inject_fault: Option<String>,
    /// arm although the crashkernel= reservation is too small
    #[argh(switch)]
    pub(crate) dangerously_ignore_size: bool,
}

/// unload the crash kernel
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "disarm")]
pub(crate) struct Disarm {}

/// what is armed, and whether its target is sound; exit code 0 armed, 1 not armed
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub(crate) struct Status {
    /// machine-readable output
    #[argh(switch)]
    pub(crate) json: bool,
}

/// Which dump of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one with the highest number.
    Latest,
    /// The one with this number.
    Number(u64),
}

impl std::str::FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            n => {
                n.parse().map(Self::Number).map_err(|_| "a dump is named by its number or `latest`")
            }
        }
    }
}

/// Format of a vmcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VmcoreFormat {
    /// ELF64 core.
    Elf,
    /// kdump-compressed with zlib, as `makedumpfile -c`: every reader knows it.
    Kdump,
    /// kdump-compressed with zstd, as `makedumpfile -z`: smaller and faster, for newer readers.
    KdumpZstd,
}

impl std::str::FromStr for VmcoreFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "elf" => Ok(Self::Elf),
            "kdump" => Ok(Self::Kdump),
            "kdump-zstd" => Ok(Self::KdumpZstd),
            _ => Err("the format is elf, kdump or kdump-zstd"),
        }
    }
}
