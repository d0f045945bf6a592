//! The victim's process, back from memory and swap: its core out of the encrypted dump, held
//! against what is known of its heap and of its call chain.

use crate::cycle::{Lab, Said, host, text};
use crate::error::{Context as _, Res, ensure};
use crate::evidence::Exports;
use crate::pattern::mix;
use crate::usercore::{SIZE, UserCore};
use crate::usergdb::{LOCALS, Opened, check_locals, locals};

/// Lists the dead machine's processes, takes the victim's core and has gdb open it. Gives
/// lines worth showing.
///
/// # Errors
/// When a command fails; when a page of the heap or a local is not what the process had, or
/// is not there.
pub fn victim(lab: &Lab, exports: &Exports) -> Res<Vec<String>> {
    let (dump, key) = (text(&exports.dump), text(&lab.identity));
    let pid = lab.facts.pid.to_string();
    let core = lab.work.join("core.victim");
    let mut shown = Vec::new();
    let listed = host(&["ps", &dump, "-i", &key])?;
    show(&mut shown, listed, |line| {
        ["PID", "/bin/victim", "/init"].iter().any(|word| line.contains(word))
    })?;
    let out = text(&core);
    let taken = host(&["core", &dump, "-i", &key, "--pid", &pid, "-o", &out, "--force"])?;
    show(&mut shown, taken, |_| true)?;
    let held = heap(lab, &UserCore::open(&core)?)?;
    shown.push(format!(
        "heap: {held} of {} pages of known words are in the core; {} kB were in swap",
        lab.facts.pages, lab.facts.swapped_kb
    ));
    let opened = Opened { core, root: lab.work.clone(), program: "victim" };
    shown.extend(chain(lab, &opened)?);
    Ok(shown)
}

/// A command, its time, and those of its lines that are wanted.
fn show(shown: &mut Vec<String>, said: Said, want: fn(&str) -> bool) -> Res<()> {
    shown.push(format!("$ {}   ({:.2} s)", said.command, said.took.as_secs_f64()));
    let out = said.good()?;
    shown.extend(out.lines().filter(|line| want(line)).map(|line| format!("    {line}")));
    Ok(())
}

/// Every page of the heap must be there and hold the victim's words. Gives their number.
fn heap(lab: &Lab, core: &UserCore) -> Res<u64> {
    let facts = &lab.facts;
    let mut page = [0u8; SIZE];
    for number in 0..facts.pages {
        let at = facts.heap + number * SIZE as u64;
        let there = core.page(at, &mut page)?;
        ensure(there, format_args!("the core lacks page {number} of the heap, at {at:#x}"))?;
        for (word, bytes) in (at..).step_by(8).zip(page.chunks_exact(8)) {
            let known = mix(facts.seed ^ word).to_le_bytes();
            ensure(bytes == known, format_args!("the core has another word at {word:#x}"))?;
        }
    }
    Ok(facts.pages)
}

/// gdb must find all frames of the chain, and in each the known locals.
fn chain(lab: &Lab, opened: &Opened) -> Res<Vec<String>> {
    let facts = &lab.facts;
    let frames = opened.chain(facts.depth)?;
    let mut commands = Vec::new();
    for frame in &frames {
        commands.push(format!("frame {frame}"));
        let words = " %lx".repeat(usize::try_from(LOCALS).unwrap_or(0));
        commands.push(format!("printf \"LB{words}\\n\", {}", locals()));
    }
    let told = opened.told(&commands)?;
    let depths = (0..facts.depth).rev();
    for (depth, words) in depths.zip(&told) {
        check_locals(facts.seed, depth, words)?;
    }
    ensure(told.len() == frames.len(), "gdb did not tell the locals of each frame")?;
    let said = opened.ask(&["info threads".to_owned(), "bt -3".to_owned()])?;
    let wanted = |l: &&str| l.starts_with('#') || l.contains("Thread") || l.contains("LWP");
    let start = said.rfind("  Id ").ctx("gdb's list of threads")?;
    let lines = said.get(start..).unwrap_or_default().lines().filter(wanted);
    let mut shown: Vec<String> = lines.map(|l| format!("  gdb    {}", l.trim())).collect();
    shown.push(format!(
        "gdb: {} frames of the known chain, {} locals as they were",
        frames.len(),
        frames.len() as u64 * LOCALS
    ));
    Ok(shown)
}
