//! Reading profile files, following `inherits`, merging, and remembering where
//! every value came from, so that a complaint about the merged profile can still
//! point at a line of a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::defect::{Defect, Defects};

/// The name of the file in a board's directory.
const BOARD_FILE: &str = "board.toml";
/// A chain of more ancestors than this is a mistake.
const MAX_ANCESTORS: usize = 16;
/// No honest profile is larger.
const MAX_BYTES: usize = 256 << 10;

/// One file as read.
#[derive(Debug)]
struct File {
    /// As named to us, for messages.
    name: String,
    text: String,
    dir: PathBuf,
}

/// The merged tree of a profile and its ancestors.
#[derive(Debug)]
pub(crate) struct Tree {
    files: Vec<File>,
    /// Key path such as `target.0.partlabel` → file and bytes of the value.
    origins: BTreeMap<String, (usize, Range<usize>)>,
    table: toml::Table,
}

impl Tree {
    /// Reads `path` (a board's directory or a file) and everything it inherits.
    /// `Raw` is the schema that each file must fit by itself.
    pub(crate) fn load<Raw: DeserializeOwned>(path: &Path) -> Result<Self, Defects> {
        let mut tree =
            Self { files: Vec::new(), origins: BTreeMap::new(), table: toml::Table::new() };
        let mut chain = Vec::new();
        let mut seen = Vec::new();
        let mut next = board_file(path);
        let mut named_at: Option<Defect> = None;
        loop {
            let text = read(&next).map_err(|why| unreadable(&next, &why, named_at.take()))?;
            let real = next.canonicalize().unwrap_or_else(|_| next.clone());
            let file = File {
                name: next.display().to_string(),
                dir: next.parent().map(Path::to_path_buf).unwrap_or_default(),
                text,
            };
            if let Some(at) = named_at.take()
                && (seen.contains(&real) || seen.len() >= MAX_ANCESTORS)
            {
                let message = "this profile inherits from itself, directly or in a circle";
                return Err(Defect { message: message.to_owned(), ..at }
                    .hint("let the common part be a board of its own, inherited by both")
                    .into());
            }
            seen.push(real);
            let spanned = checked::<Raw>(&file)?;
            let parent = spanned
                .get_ref()
                .get("inherits")
                .and_then(|v| v.get_ref().as_str().map(|text| (text.to_owned(), v.span())));
            let step = parent.map(|(text, span)| {
                let at =
                    Defect::at(&file.name, &file.text, span, "the inherited profile is missing");
                (board_file(&file.dir.join(text)), at)
            });
            let mut values = BTreeMap::new();
            let table = spanned.get_ref();
            note(table, "", chain.len(), &mut values);
            chain.push((file.text.parse::<toml::Table>(), values));
            tree.files.push(file);
            match step {
                Some((path, at)) => (next, named_at) = (path, Some(at)),
                None => break,
            }
        }
        for (table, values) in chain.into_iter().rev() {
            let table = table.map_err(|e| Defect::whole("profile", e.message()))?;
            merge(&mut tree.table, table, "", &mut tree.origins, &values);
        }
        tree.table.remove("inherits");
        Ok(tree)
    }

    /// The merged tree as its schema's type.
    pub(crate) fn raw<Raw: DeserializeOwned>(&self) -> Result<Raw, Defects> {
        self.table.clone().try_into().map_err(|e: toml::de::Error| {
            Defect::whole(&self.name(), format!("inherited tables do not fit: {}", e.message()))
                .hint("a key has one type in a profile and in what it inherits")
                .into()
        })
    }

    /// The file that was asked for.
    pub(crate) fn name(&self) -> String {
        self.files.first().map(|f| f.name.clone()).unwrap_or_default()
    }

    /// The directory of the file that was asked for.
    pub(crate) fn dir(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |f| &f.dir)
    }

    /// The directory of the file that gave the value at `key`.
    pub(crate) fn dir_of(&self, key: &str) -> &Path {
        let file = self.origins.get(key).and_then(|(n, _)| self.files.get(*n));
        file.map_or_else(|| self.dir(), |f| &f.dir)
    }

    /// A complaint about the value at `key`, or about the nearest table that is there.
    pub(crate) fn defect(&self, key: &str, message: impl Into<String>, hint: &str) -> Defect {
        let message = message.into();
        let mut path = key;
        loop {
            if let Some((n, span)) = self.origins.get(path)
                && let Some(file) = self.files.get(*n)
            {
                return Defect::at(&file.name, &file.text, span.clone(), &message).hint(hint);
            }
            match path.rfind('.') {
                Some(dot) => path = path.get(..dot).unwrap_or_default(),
                None => return Defect::whole(&self.name(), message).hint(hint),
            }
        }
    }

    /// The merged tree as TOML, with the board's name in it and nothing inherited.
    pub(crate) fn flattened(&self, name: &str) -> Result<String, Defects> {
        let mut table = self.table.clone();
        table.insert("name".to_owned(), toml::Value::String(name.to_owned()));
        let body = toml::to_string_pretty(&table)
            .map_err(|e| Defects::from(Defect::whole(&self.name(), e.to_string())))?;
        Ok(format!("# Flattened board profile: everything inherited is written out.\n{body}"))
    }
}

/// `dir` → `dir/board.toml`, a file as it is.
fn board_file(path: &Path) -> PathBuf {
    let is_file = path.is_file() || path.extension().is_some_and(|e| e == "toml" || e == "conf");
    if is_file { path.to_path_buf() } else { path.join(BOARD_FILE) }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let limit = MAX_BYTES as u64 + 1;
    file.take(limit).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() > MAX_BYTES {
        return Err("it is larger than 256 KiB".to_owned());
    }
    Ok(text)
}

fn unreadable(path: &Path, why: &str, named_at: Option<Defect>) -> Defects {
    let text = format!("cannot read {}: {why}", path.display());
    match named_at {
        Some(at) => Defect { message: text, ..at }
            .hint("`inherits` names a board's directory, relative to the file that says so")
            .into(),
        None => Defect::whole(&path.display().to_string(), format!("cannot read it: {why}"))
            .hint("boards are directories with a board.toml in them, see board/")
            .into(),
    }
}

/// Parses one file and holds it against the schema.
fn checked<Raw: DeserializeOwned>(file: &File) -> Result<toml::Spanned<DeTable<'_>>, Defects> {
    let complain = |e: &toml::de::Error| Defect::from_toml(&file.name, &file.text, e);
    let table = DeTable::parse(&file.text).map_err(|e| complain(&e))?;
    toml::from_str::<Raw>(&file.text).map_err(|e| complain(&e))?;
    Ok(table)
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

type Origins = BTreeMap<String, (usize, Range<usize>)>;

/// Notes the place of every value below `table`.
fn note(table: &DeTable<'_>, prefix: &str, file: usize, out: &mut Origins) {
    for (key, value) in table {
        let path = join(prefix, key.get_ref());
        // A table's own span may be that of its contents; its key is what one looks for.
        let span = if value.get_ref().is_table() { key.span() } else { value.span() };
        note_value(value.get_ref(), &path, span, file, out);
    }
}

fn note_value(value: &DeValue<'_>, path: &str, span: Range<usize>, file: usize, out: &mut Origins) {
    out.insert(path.to_owned(), (file, span));
    if let Some(inner) = value.as_table() {
        note(inner, path, file, out);
    }
    for (n, item) in value.as_array().into_iter().flat_map(|a| a.iter().enumerate()) {
        note_value(item.get_ref(), &join(path, &n.to_string()), item.span(), file, out);
    }
}

/// Lays `over` on `base`: tables key by key, `…_append` lists behind what is there,
/// everything else replaced.
fn merge(
    base: &mut toml::Table,
    over: toml::Table,
    prefix: &str,
    origins: &mut Origins,
    from: &Origins,
) {
    for (key, value) in over {
        let path = join(prefix, &key);
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                copy_one(&path, &path, origins, from);
                merge(below, above, &path, origins, from);
            }
            (Some(toml::Value::Array(below)), toml::Value::Array(above))
                if key.ends_with("_append") =>
            {
                for (n, item) in above.into_iter().enumerate() {
                    let to = join(&path, &below.len().to_string());
                    copy_one(&join(&path, &n.to_string()), &to, origins, from);
                    below.push(item);
                }
            }
            (_, value) => {
                let inside = format!("{path}.");
                origins.retain(|k, _| *k != path && !k.starts_with(&inside));
                let taken = from.iter().filter(|(k, _)| **k == path || k.starts_with(&inside));
                origins.extend(taken.map(|(k, v)| (k.clone(), v.clone())));
                base.insert(key, value);
            }
        }
    }
}

fn copy_one(path: &str, to: &str, origins: &mut Origins, from: &Origins) {
    if let Some(at) = from.get(path) {
        origins.insert(to.to_owned(), at.clone());
    }
}
