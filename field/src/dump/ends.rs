//! Finds a dump's end and its second header, also where other bytes follow or the first
//! header is lost. Believes nothing that names another dump.

use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, CommitRecord, DumpHeader, Id};

use super::file::{DATA_START, OPEN_END, read};
use super::{DumpError, ReadAt, Scanner, Step};

const BLOCK64: u64 = BLOCK as u64;
/// How far from its end a file is searched for a commit record that something was appended to.
const SEARCH: u64 = 16 << 20;

/// Length of dump `id` by the commit record behind its last chunk, where more bytes
/// follow: an extent that was set aside, and whose slot was not brought up to date.
pub(super) fn committed_len(src: &dyn ReadAt, id: &Id) -> Option<u64> {
    let mut scanner = Scanner::new(src, *id, DATA_START, src.len()).giving_up_after(OPEN_END);
    let mut end = None;
    while let Some(step) = scanner.next() {
        if let Step::Chunk(chunk) = step {
            end = chunk.header.offset.0.checked_add(chunk.header.frame_len());
        }
    }
    let copy = end?.checked_next_multiple_of(BLOCK64)?;
    let at = copy.checked_add(HEADER_LEN as u64)?;
    let mut block = [0u8; BLOCK];
    src.read_exact_at(at, &mut block).ok()?;
    let commit = CommitRecord::decode(&block).ok()?;
    let ours = commit.dump_id == *id && commit.total_len == at + BLOCK64 && is_placed(&commit);
    ours.then_some(commit.total_len)
}

/// The commit record in the last block, or in words why there is none.
pub(super) fn find_commit(
    src: &dyn ReadAt,
    id: Option<Id>,
) -> Result<Result<CommitRecord, String>, DumpError> {
    let len = src.len();
    let why = if len.is_multiple_of(BLOCK64) && len >= DATA_START + BLOCK64 {
        let mut block = [0u8; BLOCK];
        let there = src.read_exact_at(len - BLOCK64, &mut block).map_err(|e| e.to_string());
        match there.and_then(|()| CommitRecord::decode(&block).map_err(|e| e.to_string())) {
            Ok(c) if id.is_some_and(|id| id != c.dump_id) => {
                "the one there belongs to another dump".to_owned()
            }
            Ok(c) if c.total_len != len => {
                return Err(DumpError::Length { committed: c.total_len, found: len });
            }
            Ok(c) if !is_placed(&c) => "the one there contradicts itself".to_owned(),
            Ok(c) => return Ok(Ok(c)),
            Err(why) => why,
        }
    } else {
        format!("{len} is not a multiple of 4096")
    };
    match id {
        Some(id) => search_commit(src, id)
            .map_or(Ok(Err(why)), |committed| Err(DumpError::Length { committed, found: len })),
        None => Ok(Err(why)),
    }
}

/// Whether the record's places are where a capturer puts them.
fn is_placed(c: &CommitRecord) -> bool {
    let copy = c.header_copy.0;
    copy >= DATA_START
        && copy.is_multiple_of(BLOCK64)
        && copy.checked_add(DATA_START + BLOCK64) == Some(c.total_len)
        && (c.index.0 == 0 || (DATA_START..copy).contains(&c.index.0))
}

/// Length by a commit record of this dump near the end of a file that something
/// was appended to.
fn search_commit(src: &dyn ReadAt, id: Id) -> Option<u64> {
    let mut at = (src.len() / BLOCK64).checked_sub(1)? * BLOCK64;
    let stop = at.saturating_sub(SEARCH).max(DATA_START);
    while at > stop {
        let mut block = [0u8; BLOCK];
        src.read_exact_at(at, &mut block).ok()?;
        if let Ok(c) = CommitRecord::decode(&block)
            && c.dump_id == id
            && c.total_len == at + BLOCK64
        {
            return Some(c.total_len);
        }
        at -= BLOCK64;
    }
    None
}

/// Where a second header lies, when both the first one and the commit record are lost.
pub(super) fn find_header(src: &dyn ReadAt, want: Option<Id>) -> Result<Option<u64>, DumpError> {
    const STEP: usize = 1 << 20;
    let mut buf = vec![0u8; STEP];
    let mut at = DATA_START;
    while at + DATA_START <= src.len() {
        let take = usize::try_from(src.len() - at).unwrap_or(STEP).min(STEP);
        let take = take - take % BLOCK;
        let Some(window) = buf.get_mut(..take) else { break };
        if take == 0 {
            break;
        }
        if read(src, at, window).is_ok() {
            let (blocks, _) = window.as_chunks::<BLOCK>();
            let hit = blocks.iter().position(|b| {
                DumpHeader::decode(b).is_ok_and(|h| want.is_none_or(|id| h.dump_id == id))
            });
            if let Some(index) = hit {
                return Ok(Some(at + index as u64 * BLOCK64));
            }
        }
        at += take as u64;
    }
    Ok(None)
}
