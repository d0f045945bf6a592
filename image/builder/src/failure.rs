//! What went wrong, from the outside in, and what to do about it.

use std::fmt;

/// A failed step: causes from the outermost in, and one hint.
#[derive(Debug)]
pub(crate) struct Failure {
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { causes: vec![what.into()], hint: None }
    }

    /// The innermost hint is the best informed: it stays.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    pub(crate) fn within(mut self, step: impl Into<String>) -> Self {
        self.causes.insert(0, step.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.causes.join(": "))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            // Profile defects bring a hint each.
            None => Ok(()),
        }
    }
}

/// Names the step in which something failed.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, std::io::Error> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| {
            let hint = match e.kind() {
                std::io::ErrorKind::PermissionDenied => "the builder needs to read and write there",
                std::io::ErrorKind::StorageFull => {
                    "free some space: a kernel build takes about 2.5 GB in the cache"
                }
                std::io::ErrorKind::NotFound => {
                    "run it within the checkout, or name it with --root"
                }
                _ => "look at the file named above",
            };
            Failure::new(e.to_string()).within(what()).hint(hint)
        })
    }
}

impl<T> Step<T> for Result<T, Failure> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| e.within(what()))
    }
}
