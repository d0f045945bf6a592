//! `lifeboat`: prepares a dump partition, arms the crash kernel, and fetches,
//! checks and opens the dumps that it wrote.
//!
//! This program owns the user's words: arguments, messages, hints, exit codes,
//! and the files that it writes. What a dump says is read by the library beside
//! it (`lifeboat_field`), what a volume holds by `lifeboat_sink`. It refuses to
//! overwrite anything without `--force`, and to leave a file half written.
#![forbid(unsafe_code)]

mod arm;
mod cli;
mod cmd;
mod device;
mod keyfile;
mod output;
mod ui;

use std::process::ExitCode;

use argh::FromArgs as _;

use cli::{Cli, Command};
use ui::{Ended, Failure};

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let Ok(args) = args else {
        return Failure::usage("an argument is not UTF-8").report();
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let cli = match Cli::from_args(&["lifeboat"], &words) {
        Ok(cli) => cli,
        Err(early) => {
            if early.status.is_ok() {
                crate::ui::say!("{}", early.output.trim_end());
                return ExitCode::SUCCESS;
            }
            eprintln!(
                "{}\nhint: `lifeboat --help`, and `lifeboat COMMAND --help`",
                early.output.trim_end()
            );
            return ExitCode::from(2);
        }
    };
    if cli.version {
        crate::ui::say!(
            "lifeboat {}, dump format {}",
            env!("CARGO_PKG_VERSION"),
            lifeboat_format::FORMAT_VERSION
        );
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        return Failure::usage("no command was given")
            .hint("`lifeboat --help` lists them")
            .report();
    };
    match run(&command) {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command) -> Ended {
    match command {
        Command::Keygen(a) => cmd::keygen::run(a),
        Command::Format(a) => cmd::format::run(a),
        Command::List(a) => cmd::list::run(a),
        Command::Pull(a) => cmd::pull::run(a),
        Command::Clear(a) => cmd::clear::run(a),
        Command::Rekey(a) => cmd::rekey::run(a),
        Command::Capture(a) => cmd::capture::run(a),
        Command::Arm(a) => arm::arm(a),
        Command::Disarm(_) => arm::disarm(),
        Command::Status(a) => arm::status(a),
        Command::Verify(a) => cmd::verify::run(a),
        Command::Export(a) => cmd::export::run(a),
        Command::Ps(a) => cmd::inquest::ps::run(a),
        Command::Maps(a) => cmd::inquest::maps::run(a),
        Command::Core(a) => cmd::inquest::core::run(a),
        Command::Libs(a) => cmd::inquest::libs::run(a),
        Command::Extract(a) => cmd::inquest::extract::run(a),
    }
}
