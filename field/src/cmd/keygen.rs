//! `lifeboat keygen`: an identity in age's own file format.

use std::io::Write as _;

use zeroize::Zeroizing;

use crate::cli::Keygen;
use crate::output::Output;
use crate::ui::{Context as _, Ended, Outcome, now, when};

/// Writes a new identity; its recipient goes to stdout (to stderr when the
/// identity itself goes to stdout), as `age-keygen` does.
pub(crate) fn run(args: &Keygen) -> Ended {
    let new = lifeboat_crypt::generate_identity();
    let text = Zeroizing::new(format!(
        "# created: {}\n# public key: {}\n{}\n",
        when(now()),
        new.recipient,
        new.secret.as_str()
    ));
    match &args.output {
        None => {
            std::io::stdout().lock().write_all(text.as_bytes()).context("standard output")?;
            eprintln!("Public key: {}", new.recipient);
        }
        Some(path) => {
            let out = Output::create(path, args.force)?;
            out.file().write_all(text.as_bytes()).context(path.display())?;
            out.finish()?;
            crate::ui::say!("{}", new.recipient);
        }
    }
    Ok(Outcome::Good)
}
