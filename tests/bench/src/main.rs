//! `lifeboat-bench`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use lifeboat_qemu::error::{Context as _, Res};

pub mod input;
pub mod shm;

fn main() -> ExitCode {
    match go() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

fn go() -> Res<()> {
    let name = std::env::args().nth(1).ctx("a variant")?;
    let variant =
        input::Variant::ALL.into_iter().find(|v| v.name() == name).ctx("a known variant")?;
    let input = input::get(variant)?;
    println!("{}\n{}", input.vmcore.display(), input.description);
    Ok(())
}
