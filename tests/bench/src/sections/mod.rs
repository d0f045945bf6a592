//! The sections of the benchmark, each with its table and its targets.

mod adaptive;
mod codec;
mod export;
mod filter;
mod full;
mod many;
mod memory;
mod qemu;
mod userspace;

use lifeboat_qemu::error::{Failure, Res};

use crate::lab::Lab;

/// A section: runs, prints its table.
pub(crate) type Section = fn(&mut Lab) -> Res<()>;

/// A section with its name.
pub(crate) type Named = (&'static str, Section);

/// All sections by name, in the order in which they share inputs best, and whether
/// `--quick` runs them.
const ALL: [(&str, Section, bool); 10] = [
    ("full", full::run, true),
    ("codec", codec::run, true),
    ("filter", filter::run, true),
    ("memory", memory::run, true),
    ("adaptive", adaptive::run, false),
    ("export", export::run, false),
    ("userspace", userspace::run, false),
    ("many", many::run, false),
    ("qemu", qemu::run, false),
    ("model", model, false),
];

/// The sections of these names; without names, all, or those of `--quick`.
///
/// # Errors
/// When there is no section of a name.
pub(crate) fn chosen(names: &[String], quick: bool) -> Res<Vec<Named>> {
    if names.is_empty() {
        return Ok(ALL.iter().filter(|s| s.2 || !quick).map(|s| (s.0, s.1)).collect());
    }
    let find = |name: &String| {
        let found = ALL.iter().find(|s| s.0 == name).map(|s| (s.0, s.1));
        found.ok_or_else(|| {
            let all: Vec<&str> = ALL.iter().map(|s| s.0).collect();
            Failure::check(format_args!("no section `{name}`\nhint: one of {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// The model needs what `full` measured.
fn model(lab: &mut Lab) -> Res<()> {
    if lab.rates.is_none() {
        full::run(lab)?;
    }
    if let Some(rates) = &lab.rates {
        rates.print();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unknown_section_is_refused_with_the_names_of_all() {
        let names = ["full".to_owned(), "nonsense".to_owned()];
        let why = super::chosen(&names, false).unwrap_err().to_string();
        assert!(why.contains("`nonsense`") && why.contains("adaptive"), "{why}");
        assert_eq!(super::chosen(&[], true).unwrap().len(), 4);
    }
}
