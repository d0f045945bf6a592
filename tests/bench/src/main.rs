//! `lifeboat-bench`: capture, filter and export side by side with makedumpfile and
//! with the bare codecs, in one run, taking turns, on memory of a guest that really
//! panicked. `make bench` runs all of it.
//!
//! It owns the inputs, the runs and the tables. It does not share code with what it
//! measures: `lifeboat` is a program that it starts, like its peers. What is asked of a
//! figure stands in its section; one that falls short is printed with its distance, and
//! ends nothing.

#![forbid(unsafe_code)]

mod bare;
mod input;
mod lab;
mod measure;
mod model;
mod ours;
mod peers;
mod sections;
mod shm;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use argh::FromArgs;
use lifeboat_qemu::error::{Res, ensure};

use crate::input::Variant;
use crate::lab::Lab;

/// Measures capture, filter and export beside makedumpfile and bare codecs.
#[derive(FromArgs, Debug)]
struct Args {
    /// rounds in which all take turns (default 3)
    #[argh(option, default = "3")]
    rounds: u32,
    /// one round of the sections full, codec, filter and memory
    #[argh(switch)]
    quick: bool,
    /// only make the inputs and print where they are
    #[argh(switch)]
    inputs: bool,
    /// sections to run (default all): full, many, codec, filter, memory, adaptive,
    /// export, userspace, qemu, model
    #[argh(positional)]
    sections: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = words.split_first()
        && first == measure::STARTER
    {
        return match measure::starter(rest) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(why) => failed(&why),
        };
    }
    let args: Args = argh::from_env();
    let done = if args.inputs { inputs() } else { bench(&args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn failed(why: &lifeboat_qemu::error::Failure) -> ExitCode {
    eprintln!("\nFAILED: {why}");
    ExitCode::FAILURE
}

fn inputs() -> Res<()> {
    for variant in Variant::ALL {
        let input = input::get(variant)?;
        println!("{}\n{}", input.vmcore.display(), input.description);
    }
    Ok(())
}

fn bench(args: &Args) -> Res<()> {
    let chosen = sections::chosen(&args.sections, args.quick)?;
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let mut lab = Lab::new(rounds)?;
    lab.introduce();
    let mut failures = Vec::new();
    for (name, section) in chosen {
        if let Err(why) = section(&mut lab) {
            println!("\nsection {name} FAILED: {why}");
            failures.push(name);
        }
    }
    // What the others measured is not lost for it.
    ensure(failures.is_empty(), format_args!("sections that failed: {}", failures.join(", ")))
}
