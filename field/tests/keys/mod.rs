//! Keys of every type, made by the programs that people make them with, and a bench with a
//! dump on a volume for them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests; each test program uses a part of them"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{BLOCK, CommitRecord, KeyArea};

use super::common::capture::{Plan, plant};
use super::common::{Ran, cmd, image};

/// Bytes of the volume.
pub(crate) const LEN: u64 = 64 << 20;

/// A key made by ssh-keygen; gives the line of its `.pub` file.
pub(crate) fn ssh_keygen(dir: &Path, name: &str, how: &str, passphrase: &str) -> String {
    let out = Command::new("ssh-keygen")
        .args(["-q", "-C", "anna@db7", "-N", passphrase, "-f"])
        .arg(dir.join(name))
        .args(how.split(' '))
        .output()
        .expect("openssh-client is installed by scripts/bootstrap.sh");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap().trim().to_owned()
}

/// A new X25519 key in file `name`; gives the recipient.
pub(crate) fn age_key(dir: &Path, name: &str) -> String {
    cmd(dir, &format!("keygen -o @/{name}")).exits(0).out.trim().to_owned()
}

/// Where the test plugin is, an example of this package that cargo builds with the tests.
pub(crate) fn plugin_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_BIN_EXE_lifeboat")).with_file_name("examples");
    assert!(
        dir.join("age-plugin-lifeboattest").is_file(),
        "no plugin: cargo build -p lifeboat --example age-plugin-lifeboattest"
    );
    dir
}

/// PATH with the plugin in front.
pub(crate) fn plugin_path() -> String {
    format!("{}:{}", plugin_dir().display(), std::env::var("PATH").unwrap_or_default())
}

/// A new key of the test plugin in file `name`; gives the recipient.
pub(crate) fn plugin_key(dir: &Path, name: &str, pin: Option<&str>) -> String {
    let mut plugin = Command::new(plugin_dir().join("age-plugin-lifeboattest"));
    plugin.args(pin.map(|p| ["--pin", p]).into_iter().flatten());
    let out = plugin.output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    fs::write(dir.join(name), &text).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("# recipient: "));
    line.unwrap().to_owned()
}

/// Runs `lifeboat` without a terminal, with more environment. `@` stands for `dir`.
pub(crate) fn alone(dir: &Path, line: &str, env: &[(&str, &str)]) -> Ran {
    let words = line.split_whitespace().map(|w| w.replace('@', dir.to_str().unwrap()));
    let out = Command::new("setsid")
        .args(["-w", env!("CARGO_BIN_EXE_lifeboat")])
        .args(words)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs `lifeboat` on a terminal of its own (by `script` of util-linux), types `typed`,
/// and gives the exit code and what the terminal showed.
pub(crate) fn on_a_terminal(
    dir: &Path,
    line: &str,
    (question, typed): (&str, &str),
    env: &[(&str, &str)],
) -> (i32, String) {
    let line = line.replace('@', dir.to_str().unwrap());
    let mut script = Command::new("script")
        .args(["-q", "-e", "-c"])
        .arg(format!("{} {line}", env!("CARGO_BIN_EXE_lifeboat")))
        .arg("/dev/null")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut keyboard = script.stdin.take().unwrap();
    let mut screen = script.stdout.take().unwrap();
    let (mut shown, mut asked) = (Vec::new(), 0);
    let mut answers = typed.split_inclusive('\n');
    let mut part = [0u8; 4096];
    // As a person would: each answer after its question. What is typed before the program
    // has switched the echo off would be shown by the terminal itself.
    loop {
        let n = screen.read(&mut part).unwrap();
        if n == 0 {
            break;
        }
        shown.extend_from_slice(&part[..n]);
        let questions = String::from_utf8_lossy(&shown).matches(question).count();
        while asked < questions {
            asked += 1;
            std::thread::sleep(std::time::Duration::from_millis(700));
            if let Some(answer) = answers.next() {
                // The program may have ended instead.
                let _ = keyboard.write_all(answer.as_bytes());
            }
        }
    }
    let status = script.wait().unwrap();
    drop(keyboard);
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&shown).into_owned())
}

/// What Debian's age, a program with nothing of ours, makes of an age file.
pub(crate) fn by_age(wrapped: &[u8], identity: &Path, path: &str) -> Option<Vec<u8>> {
    let mut age = Command::new("age")
        .args(["-d", "-i"])
        .arg(identity)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's age is installed by scripts/bootstrap.sh");
    age.stdin.take().unwrap().write_all(wrapped).unwrap();
    let out = age.wait_with_output().unwrap();
    out.status.success().then_some(out.stdout)
}

/// A fingerprint as `list` prints it.
pub(crate) fn print(recipient: &str) -> String {
    lifeboat_crypt::fingerprint(recipient).iter().map(|b| format!("{b:02x}")).collect()
}

/// A volume in a file `part` with one dump, sealed to the key in file `key`.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) recipient: String,
    pub(crate) part: PathBuf,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut Plan)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let part = image(dir.path(), "part", LEN >> 20);
        let recipient = age_key(dir.path(), "key");
        cmd(dir.path(), "format @/part --max-dumps 4").exits(0);
        let bench = Self { dir, recipient, part };
        bench.plant(change);
        bench
    }

    pub(crate) fn plant(&self, change: impl FnOnce(&mut Plan)) {
        let mut plan = Plan::sealed(&self.recipient);
        change(&mut plan);
        plant(&self.part, 0, LEN, &plan);
    }

    pub(crate) fn d(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.d().join(name)).unwrap()
    }

    /// Pulls the first dump into file `name`.
    pub(crate) fn pull(&self, name: &str, code: i32) {
        cmd(self.d(), &format!("pull @/part --dump 1 -o @/{name}")).exits(code);
    }
}

/// Where the key areas of a dump file lie.
pub(crate) fn areas(dump: &[u8]) -> Vec<usize> {
    let last = dump.last_chunk::<BLOCK>().unwrap();
    let second = CommitRecord::decode(last).ok().map(|c| c.header_copy.0 as usize + BLOCK);
    [Some(BLOCK), second].into_iter().flatten().collect()
}

/// The key area at `at`.
pub(crate) fn area(dump: &[u8], at: usize) -> Box<[u8; KEY_AREA_LEN]> {
    Box::new(*dump[at..].first_chunk().unwrap())
}

/// Entries of the key area at `at`, as kind and age file.
pub(crate) fn entries(dump: &[u8], at: usize) -> Vec<Vec<u8>> {
    let area = area(dump, at);
    KeyArea::decode(&area).unwrap().entries().map(|e| e.wrapped.to_vec()).collect()
}
