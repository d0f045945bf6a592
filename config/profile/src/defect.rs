//! Complaints about a profile, each with its place and a way out.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The file, as it was named to us.
    pub file: String,
    /// Line and column, both from 1; `None` where the complaint is about what is not there.
    pub place: Option<(usize, usize)>,
    /// The line itself and how many of its characters are meant.
    pub excerpt: Option<(String, usize)>,
    /// What is wrong, and which disaster follows.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Defect {
    /// A complaint about bytes `span` of `text`.
    pub(crate) fn at(file: &str, text: &str, span: Range<usize>, message: &str) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let column = before.get(line_start..).map_or(0, |t| t.chars().count()) + 1;
        let meant = after.get(..span.end.saturating_sub(start)).unwrap_or_default();
        let width = meant.lines().next().map_or(1, |t| t.chars().count()).max(1);
        Self {
            file: file.to_owned(),
            place: Some((before.matches('\n').count() + 1, column)),
            excerpt: Some((line.trim_end().to_owned(), width)),
            message: message.to_owned(),
            hint: String::new(),
        }
    }

    /// A complaint about a whole file.
    pub(crate) fn whole(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            place: None,
            excerpt: None,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same complaint with a way out.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What the TOML reader or serde had to say, in our words.
    pub(crate) fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let said = error.message();
        let quoted: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
        let (message, hint) = match quoted.split_first() {
            Some((key, known)) if said.starts_with("unknown field") => {
                (format!("unknown key `{key}`"), suggestion("keys here", key, known))
            }
            Some((value, known)) if said.starts_with("unknown variant") => (
                format!("`{value}` is not one of the words allowed here"),
                suggestion("the words are", value, known),
            ),
            _ if said.starts_with("invalid type") || said.starts_with("invalid value") => (
                said.lines().next().unwrap_or(said).to_owned(),
                "the keys, their types and units are in board/x86_64-generic/README.md".to_owned(),
            ),
            _ => (
                said.lines().next().unwrap_or(said).to_owned(),
                "a profile is TOML 1.0; strings are in double quotes, tables in [brackets]"
                    .to_owned(),
            ),
        };
        match error.span() {
            Some(span) => Self::at(file, text, span, &message).hint(hint),
            None => Self::whole(file, message).hint(hint),
        }
    }
}

/// “did you mean” for the nearest known word, or the list of them.
fn suggestion(what: &str, found: &str, known: &[&str]) -> String {
    let close = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(found, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.chars().count() / 3)
        .min();
    match close {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None => format!("{what}: {}", known.join(", ")),
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        writeln!(f, ": {}", self.message)?;
        if let (Some((line, column)), Some((text, width))) = (self.place, &self.excerpt) {
            let pad: String = text
                .chars()
                .take(column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            writeln!(f, "{line:>5} | {text}")?;
            writeln!(f, "      | {pad}{}", "^".repeat(*width))?;
        }
        write!(f, "hint: {}", self.hint)
    }
}

/// All that is wrong with a profile; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Defects(pub Vec<Defect>);

impl fmt::Display for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, defect) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{defect}")?;
        }
        Ok(())
    }
}

impl From<Defect> for Defects {
    fn from(one: Defect) -> Self {
        Self(vec![one])
    }
}
