//! What a vendor reads when a profile is wrong: whole texts, line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test falls over where it is wrong")]

use std::fs;
use std::path::Path;

use lifeboat_profile::{Profile, Site, lower};

const GOOD: &str = "[kernel]\nfragments = [\"00-base\"]\n";
const RECIPIENT: &str = "age1vdp67h82a3czfe430j64j0tk26fc2s4ppt4ahxzj4a6ny7ygl3ystue7ea";

fn load(text: &str) -> Result<Profile, String> {
    let dir = tempfile::Builder::new().prefix("board").tempdir().unwrap();
    let file = dir.path().join("board.toml");
    fs::write(&file, text).unwrap();
    Profile::load(&file)
        .map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

fn refused(text: &str) -> String {
    load(text).expect_err("this profile must be refused")
}

#[test]
fn a_misspelt_key_shows_its_line_and_the_right_word() {
    let text = "[kernel]\nfragments = [\"00-base\"]\n\n[keys]\nrecipents = []\n";
    assert_eq!(
        refused(text),
        "board.toml:5:1: unknown key `recipents`\n    5 | recipents = []\n      | ^^^^^^^^^\nhint: did you mean `recipients`?"
    );
}

#[test]
fn a_key_like_no_other_lists_those_there_are() {
    assert_eq!(
        refused("[watchdog]\nbogus = 1\n"),
        "board.toml:2:1: unknown key `bogus`\n    2 | bogus = 1\n      | ^^^^^\nhint: keys here: device, timeout_s"
    );
}

#[test]
fn a_wrong_type_points_at_the_value() {
    assert_eq!(
        refused("[kernel]\ncpus = \"two\"\n"),
        "board.toml:2:8: invalid type: string \"two\", expected u32\n    2 | cpus = \"two\"\n      |        ^^^^^\nhint: the keys, their types and units are in board/x86_64-generic/README.md"
    );
}

#[test]
fn a_wrong_word_points_at_the_right_one() {
    assert_eq!(
        refused("[after]\naction = \"rebot\"\n"),
        "board.toml:2:10: `rebot` is not one of the words allowed here\n    2 | action = \"rebot\"\n      |          ^^^^^^^\nhint: did you mean `reboot`?"
    );
}

#[test]
fn a_kind_of_page_that_there_is_not_points_at_those_there_are() {
    let text = format!("{GOOD}[capture]\nexclude = [\"free\", \"hwpoisn\"]\n");
    assert_eq!(
        refused(&text),
        "board.toml:4:20: `hwpoisn` is not one of the words allowed here\n    4 | exclude = [\"free\", \"hwpoisn\"]\n      |                    ^^^^^^^^^\nhint: did you mean `hwpoison`?"
    );
    let said = refused(&format!("{GOOD}[capture]\nexclude = [\"slab\"]\n"));
    assert!(said.contains("`slab` is not one of the words allowed here"), "{said}");
    assert!(said.contains("cache-private"), "{said}");
}

/// What the profile leaves out, down to the orders of PID 1.
#[test]
fn what_is_left_out_comes_down_to_the_orders() {
    for (line, want) in [
        ("", "zero,free,offline,hwpoison"),
        ("exclude = []", "zero"),
        ("exclude = [\"zero\"]", "zero"),
        ("exclude = [\"user\", \"cache-private\"]", "zero,cache,cache-private,user"),
        (
            "exclude = [\"free\", \"cache\", \"user\", \"offline\", \"hwpoison\"]",
            "zero,free,cache,user,offline,hwpoison",
        ),
    ] {
        let text = format!(
            "{GOOD}[capture]\n{line}\n[[target]]\npartlabel = \"a\"\n[keys]\nrecipients = [\"{RECIPIENT}\"]\n"
        );
        let profile = load(&text).unwrap();
        let orders = lower(&profile, &Site::default()).unwrap();
        assert_eq!(orders.exclude.to_string(), want, "{line}");
    }
}

#[test]
fn broken_toml_points_at_the_place() {
    let said = refused("[kernel\ncpus = 1\n");
    assert!(said.starts_with("board.toml:1:8: "), "{said}");
    assert!(said.contains("hint: a profile is TOML"), "{said}");
}

#[test]
fn a_target_by_device_path_names_the_disaster() {
    let text = format!("{GOOD}[[target]]\npath = \"/dev/sda3\"\n");
    assert_eq!(
        refused(&text),
        "board.toml:4:8: a target named by device path: names follow probe order, and after the next disk swap the dump would go to another disk\n    4 | path = \"/dev/sda3\"\n      |        ^^^^^^^^^^^\nhint: partlabel, partuuid, parttype or volume; `lsblk -o NAME,PARTLABEL,PARTUUID` shows them"
    );
}

#[test]
fn all_contradictions_are_told_at_once() {
    let text = format!(
        "{GOOD}cmdline = [\"panic=0\", \"root=/dev/sda1\"]\n[after]\ndeadline_s = 60\ndevice_wait_s = 60\n"
    );
    let said = refused(&text);
    for part in [
        "board.toml:3:12: `panic=0` waits for ever",
        "board.toml:3:23: `root` has no place here",
        "board.toml:6:17: waiting 60 s for the target leaves nothing of the deadline",
        "board.toml:5:14: the watchdog (60 s) would bite only after the deadline of 60 s",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    assert_eq!(said.matches("hint: ").count(), 4);
}

/// Every refusal, each with a word of the message that must be there.
#[test]
#[allow(clippy::too_many_lines, reason = "a list of cases")]
fn contradictions_are_refused() {
    let two = format!("[\"{RECIPIENT}\", \"{RECIPIENT}\"]");
    let cases = [
        (
            format!("{GOOD}[keys]\nencrypt = \"none\"\nrecipients = [\"{RECIPIENT}\"]\n"),
            "in the clear",
        ),
        (format!("{GOOD}[keys]\nrecipients = {two}\n"), "same recipient twice"),
        (format!("{GOOD}[keys]\nrecipients = [\"age1short\"]\n"), "has 62 characters"),
        (
            format!("{GOOD}[keys]\nrecipients = [\"{}\"]\n", RECIPIENT.replace("vdp6", "vdpy")),
            "checksum",
        ),
        (format!("{GOOD}[keys]\nrecipients = [\"AGE-SECRET-KEY-1X\"]\n"), "secret key"),
        (
            format!("{GOOD}[memory]\ncapture = false\n[capture]\nswap = \"none\"\n"),
            "every dump would be empty",
        ),
        (
            format!("{GOOD}[capture]\nswap = [\"partlabel=x\"]\n[[target]]\npartlabel = \"x\"\n"),
            "overwrite the swap",
        ),
        (format!("{GOOD}[capture]\nswap = [\"sda3\"]\n"), "key=value"),
        (format!("{GOOD}[capture]\nswap = []\n"), "empty list"),
        (format!("{GOOD}[capture]\ncodec = \"store\"\nlevel = 3\n"), "nothing would use it"),
        (format!("{GOOD}[capture]\ncodec = \"zstd\"\nladder = [\"lz4\"]\n"), "nothing to choose"),
        (format!("{GOOD}[capture]\nladder = [\"gzip 3\"]\n"), "no way to pack"),
        (format!("{GOOD}[capture]\nladder = [\"lz4 zstd 1\"]\n"), "`lz4 zstd 1` is no way to"),
        (format!("{GOOD}[capture]\nladder = [\"zstd 3\", \"lz4\"]\n"), "from the fastest"),
        (format!("{GOOD}[capture]\ndedup_kib = 60000\n"), "run out of memory"),
        // Of 64 MiB: 2 for a worker, 16 for each of the two.
        (format!("{GOOD}[capture]\ndedup_kib = 16384\nbuffers_kib = 16384\n"), "about 34 MiB"),
        (format!("{GOOD}[capture]\nchunk_pages = 1024\nworkers = 8\n"), "run out of memory"),
        (format!("{GOOD}[capture]\nchunk_pages = 0\n"), "out of range"),
        (format!("{GOOD}[capture]\nexclude = [\"free\", \"free\"]\n"), "same word twice"),
        (format!("{GOOD}[capture]\nexclude = \"free\"\n"), "invalid type"),
        (
            format!("{GOOD}[reservation]\ncrashkernel_mib = 16\nimage_budget_mib = 4\n"),
            "deadlocks on memory",
        ),
        (format!("{GOOD}[reservation]\nimage_budget_mib = 60\n"), "run out of memory"),
        (format!("{GOOD}[[target]]\npartlabel = \"a\"\npartuuid = \"b\"\n"), "exactly one way"),
        (format!("{GOOD}[[target]]\nparttype = \"linux\"\n"), "matches no partition"),
        (format!("{GOOD}[capture]\nbuffers_kib = 100\n"), "would wait for bytes"),
        (format!("{GOOD}[capture]\nbuffers_kib = 32768\n"), "run out of memory"),
        (format!("{GOOD}[led]\nchip = \"gpio\"\nline = 1\n"), "not a GPIO chip"),
        (format!("{GOOD}[led]\nline = 1\n"), "needs both"),
        (format!("{GOOD}[watchdog]\ndevice = \"/dev/sda\"\n"), "not a watchdog"),
        (format!("{GOOD}[watchdog]\ndevice = \"none\"\ntimeout_s = 9\n"), "device is none"),
        (format!("{GOOD}[console]\ndevices = [\"tty S0\"]\n"), "not a console"),
        (format!("{GOOD}package = \"linux-source-6.1\"\n"), "too old"),
        (format!("{GOOD}package = \"vim\"\n"), "not a kernel source package"),
        (format!("{GOOD}tarball = \"linux.tar.xz\"\n"), "needs its sha256"),
        (format!("{GOOD}sha256 = \"00\"\n"), "would protect nothing"),
        (
            format!("{GOOD}path = \"/a\"\npackage = \"linux-source-6.12\"\n"),
            "which kernel is meant",
        ),
        (format!("{GOOD}cmdline = [\"irqpoll\"]\n"), "no `panic=`"),
        (format!("{GOOD}cmdline = [\"panic=10\", \"a=1\", \"a=2\"]\n"), "given twice"),
        (format!("{GOOD}cmdline = [\"panic=10 quiet\"]\n"), "has a space"),
        (format!("{GOOD}cmdline = [\"panic=10\", \"crashkernel=64M\"]\n"), "none left to run in"),
        (
            format!("{GOOD}cmdline = [\"panic=10\", \"x={}\"]\n", "y".repeat(1900)),
            "the kernel would cut it",
        ),
        ("description = \"no kernel\"\n".to_owned(), "no kernel configuration fragments"),
        (format!("name = \"../up\"\n{GOOD}"), "cannot be a board's name"),
    ];
    for (text, part) in &cases {
        let said = refused(text);
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
        assert!(said.contains("board.toml"), "{said}");
        let hints: Vec<&str> = said.lines().filter_map(|l| l.strip_prefix("hint: ")).collect();
        assert!(!hints.is_empty() && hints.iter().all(|h| !h.is_empty()), "{said}");
    }
}

fn boards(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (board, text) in files {
        fs::create_dir(dir.path().join(board)).unwrap();
        fs::write(dir.path().join(board).join("board.toml"), text).unwrap();
    }
    dir
}

#[test]
fn inheritance_merges_tables_and_appends_only_where_asked() {
    let dir = boards(&[
        (
            "base",
            "[kernel]\nfragments = [\"a\", \"b\"]\ncmdline_append = [\"one\"]\ncmdline = [\"panic=5\"]\ncpus = 4\n[after]\ndeadline_s = 500\n",
        ),
        ("mid", "inherits = \"../base\"\n[kernel]\ncmdline_append = [\"two\"]\ncpus = 2\n"),
        (
            "leaf",
            "inherits = \"../mid\"\n[kernel]\nfragments = [\"./own.config\"]\ncmdline_append = [\"three=3\"]\n[[target]]\npartlabel = \"l\"\n",
        ),
    ]);
    let leaf = Profile::load(&dir.path().join("leaf")).unwrap();
    assert_eq!(leaf.name, "leaf");
    assert_eq!(leaf.cmdline(), "panic=5 one two three=3 nr_cpus=2 loglevel=4");
    assert_eq!(leaf.fragments, [dir.path().join("leaf/./own.config")]);
    assert_eq!((leaf.cpus, leaf.deadline_s), (2, 500));
    // What is written beside the image says the same without its ancestors.
    let alone = dir.path().join("flat.toml");
    fs::write(&alone, leaf.flattened()).unwrap();
    let flat = Profile::load(&alone).unwrap();
    assert_eq!(flat.flattened(), leaf.flattened());
    assert_eq!((flat.name.as_str(), flat.cmdline()), ("leaf", leaf.cmdline()));
    assert!(!leaf.flattened().contains("inherits"));
}

#[test]
fn a_defect_of_an_ancestor_points_into_the_ancestor() {
    let dir = boards(&[
        (
            "base",
            "[kernel]\nfragments = [\"a\"]\ncmdline_append = [\"panic=3\", \"quiet\"]\ncmdline = []\n",
        ),
        ("leaf", "inherits = \"../base\"\n[kernel]\ncmdline_append = [\"x\", \"mem=1G\"]\n"),
    ]);
    let said = Profile::load(&dir.path().join("leaf")).unwrap_err().to_string();
    let in_leaf = said.find("leaf/board.toml:3:24: `mem` has no place here");
    let in_base = said.find("leaf/../base/board.toml:3:30: `quiet` has no place here");
    assert!(in_leaf.is_some() && in_base.is_some(), "{said}");
}

#[test]
fn circles_and_missing_ancestors_are_refused() {
    let dir = boards(&[
        ("a", "inherits = \"../b\"\n"),
        ("b", "inherits = \"../a\"\n"),
        ("c", "inherits = \"../nowhere\"\n"),
        ("d", "inherits = \".\"\n"),
    ]);
    let said = |board: &str| Profile::load(&dir.path().join(board)).unwrap_err().to_string();
    assert!(
        said("a").contains("b/board.toml:1:12: this profile inherits from itself"),
        "{}",
        said("a")
    );
    assert!(
        said("d").contains("d/board.toml:1:12: this profile inherits from itself"),
        "{}",
        said("d")
    );
    assert!(said("c").contains("c/board.toml:1:12: cannot read"), "{}", said("c"));
    assert!(said("e").contains("hint: boards are directories"), "{}", said("e"));
}

fn site(text: &str) -> Result<Site, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("site.toml");
    fs::write(&file, text).unwrap();
    Site::load(&file).map_err(|e| e.to_string())
}

#[test]
fn a_site_completes_a_profile() {
    let profile = load(GOOD).unwrap();
    assert_eq!(profile.missing(), ["target", "recipients"]);
    let said = lower(&profile, &Site::default()).unwrap_err().to_string();
    assert!(said.contains("nowhere to write") && said.contains("nobody could open"), "{said}");
    let site = site(&format!(
        "hostname = \"db7\"\nswap = [\"partlabel=swap\"]\n[[target]]\npartlabel = \"lifeboat\"\n[keys]\nrecipients = [\"{RECIPIENT}\"]\n"
    ))
    .unwrap();
    let cfg = lower(&profile, &site).unwrap();
    assert_eq!((&*cfg.hostname, cfg.targets.len(), cfg.recipients.len()), ("db7", 1, 1));
    let mut text = lifeboat_format_text();
    cfg.write(&mut text, true).unwrap();
    assert_eq!(lifeboat_format::bootcfg::BootConfig::parse(text.as_bytes()).unwrap(), cfg);
}

fn lifeboat_format_text() -> heapless::String<4096> {
    heapless::String::new()
}

#[test]
fn a_site_is_held_to_the_same_rules() {
    for (text, part) in [
        ("hostnme = \"x\"\n", "did you mean `hostname`?"),
        ("[keys]\nrecipients = [\"age1x\"]\n", "not a recipient"),
        ("[[target]]\npath = \"/dev/sda\"\n", "named by device path"),
        ("[[target]]\nvolume = \"12ab\"\n", "32 hexadecimal digits"),
        ("swap = \"al\"\n", "hint: the words are: auto, none"),
        ("swap = [\"partlabel=x\"]\n[[target]]\npartlabel = \"x\"\n", "overwrite the swap"),
        ("[kernel]\ncpus = 2\n", "unknown key `kernel`"),
    ] {
        let said = site(text).unwrap_err();
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    // A contradiction between the two shows when they are joined.
    let profile = load(&format!("{GOOD}[capture]\nswap = [\"partlabel=x\"]\n")).unwrap();
    let site = site("[[target]]\npartlabel = \"x\"\n[keys]\nencrypt = \"none\"\n").unwrap();
    let said = lower(&profile, &site).unwrap_err().to_string();
    assert!(said.contains("overwrite what it is to save"), "{said}");
}

#[test]
fn the_generic_board_loads_and_needs_a_recipient() {
    let board = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../board/x86_64-generic");
    let profile = Profile::load(&board).unwrap();
    assert_eq!(profile.name, "x86_64-generic");
    assert_eq!(profile.missing(), ["recipients"]);
    assert_eq!(profile.crashkernel(), "crashkernel=48M");
}
