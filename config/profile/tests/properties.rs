//! Properties: no input makes the reader fall over, and no mistyped recipient passes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test falls over where it is wrong")]

use std::fs;

use lifeboat_profile::Profile;
use proptest::prelude::*;

fn load(text: &str) -> Result<Profile, String> {
    let dir = tempfile::Builder::new().prefix("board").tempdir().unwrap();
    let file = dir.path().join("board.toml");
    fs::write(&file, text).unwrap();
    Profile::load(&file).map_err(|e| e.to_string())
}

const WHOLE: &str = include_str!("../../../board/x86_64-generic/board.toml");

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a slip of the editor does to a good profile: either it loads, or
    /// the complaint has a hint and a place within the text.
    #[test]
    fn a_damaged_profile_loads_or_is_explained(
        at in 0..WHOLE.len(),
        cut in 0usize..40,
        put in "[a-z0-9\\[\\]=\",.é{}\n]{0,6}",
    ) {
        let mut at = at;
        while !WHOLE.is_char_boundary(at) { at -= 1; }
        let mut end = (at + cut).min(WHOLE.len());
        while !WHOLE.is_char_boundary(end) { end -= 1; }
        let end = end.max(at);
        let text = format!("{}{put}{}", &WHOLE[..at], &WHOLE[end..]);
        if let Err(said) = load(&text) {
            prop_assert!(said.contains("hint: "), "{said}");
            for line in said.lines().filter(|l| l.contains("/board.toml:")) {
                let place = line.split("/board.toml:").nth(1).unwrap();
                let mut numbers = place.split(':');
                if let Some(Ok(row)) = numbers.next().map(str::parse::<usize>) {
                    prop_assert!((1..=text.matches('\n').count() + 1).contains(&row), "{said}");
                }
            }
        }
    }

    /// A flattened profile flattens to itself.
    #[test]
    fn flattening_is_stable(cpus in 1u32..8, deadline in 100u32..10_000, label in "[a-z]{1,12}") {
        let text = format!(
            "name = \"b\"\n[kernel]\nfragments = [\"a\"]\ncpus = {cpus}\n[after]\ndeadline_s = {deadline}\n[[target]]\npartlabel = \"{label}\"\n"
        );
        let once = load(&text).unwrap();
        let twice = load(once.flattened()).unwrap();
        prop_assert_eq!(once.flattened(), twice.flattened());
        prop_assert_eq!((twice.cpus, twice.deadline_s), (cpus, deadline));
    }

    /// No recipient with a wrong character gets into a profile.
    #[test]
    fn a_mistyped_recipient_is_refused(at in 4usize..62, put in "[a-z0-9]") {
        let good = lifeboat_crypt::generate_identity().recipient;
        let with = |r: &str| load(&format!("name = \"b\"\n[kernel]\nfragments = [\"a\"]\n[keys]\nrecipients = [\"{r}\"]\n"));
        prop_assert!(with(&good).is_ok());
        let mut bad = good.clone();
        bad.replace_range(at..=at, &put);
        if bad != good {
            let said = with(&bad).expect_err("accepted");
            prop_assert!(said.contains("board.toml:5:15: ") && said.contains("is not a recipient"), "{}", said);
        }
    }
}
