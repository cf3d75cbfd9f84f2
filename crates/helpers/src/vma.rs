//! Mappings of this process: where text lies, which file it is of, and the build id of that file. Key types: [`Vma`], [`TextMap`].
//!
//! Read from `/proc/self/maps` and from the files it names. [`text_at`] keeps what it read until an address lies outside of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::RwLock;

/// Bytes of a build id as programs get it; shorter ones end with zeros.
pub(crate) const BUILD_ID_BYTES: usize = 20;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vma {
    /// First address.
    pub(crate) start: u64,
    /// Address behind it.
    pub(crate) end: u64,
    /// Read, write, execute, shared, as bits 0 to 3 of `vm_flags`.
    pub(crate) flags: u64,
    /// Where it begins in its file, in bytes.
    pub(crate) file_offset: u64,
    /// Path of the file; empty for none.
    pub(crate) path: String,
}

/// `VM_EXEC`
pub(crate) const EXEC: u64 = 4;

impl Vma {
    /// One line of `/proc/self/maps`.
    fn parse(line: &str) -> Option<Vma> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let mode = words.next()?.as_bytes();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let file_offset = hex(words.next()?)?;
        let path = words.nth(2).unwrap_or_default();
        let flags = [b'r', b'w', b'x', b's'].iter().zip(mode);
        let bits = flags
            .enumerate()
            .map(|(bit, (is, was))| u64::from(is == was) << bit);
        Some(Vma {
            start: hex(start)?,
            end: hex(end)?,
            flags: bits.sum(),
            file_offset,
            path: path.to_owned(),
        })
    }

    /// Of an executable or a library, not of memory that a program was compiled into.
    fn is_of_file(&self) -> bool {
        self.path.starts_with('/') && !self.path.starts_with("/memfd:")
    }
}

/// All mappings, by address; empty where the host does not tell.
pub(crate) fn vmas() -> Vec<Vma> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    text.lines().filter_map(Vma::parse).collect()
}

/// Text of an executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    start: u64,
    end: u64,
    file_offset: u64,
    /// Of the host's files, not of a program.
    pub(crate) is_host: bool,
    /// Build id of the file.
    pub(crate) build_id: Option<[u8; BUILD_ID_BYTES]>,
}

impl Text {
    /// Where an address lies in the file, in bytes.
    pub(crate) fn offset_of(&self, address: u64) -> u64 {
        address - self.start + self.file_offset
    }
}

/// Texts by address.
type TextMap = Arc<Vec<Text>>;

static TEXTS: RwLock<Option<TextMap>> = RwLock::new(None);

fn read_texts() -> Vec<Text> {
    let mut build_ids = BTreeMap::new();
    let vmas = vmas().into_iter().filter(|vma| vma.flags & EXEC != 0);
    vmas.map(|vma| {
        let is_host = vma.is_of_file();
        let build_id = match build_ids.get(&vma.path) {
            Some(known) => *known,
            None => {
                let read = if is_host { build_id(&vma.path) } else { None };
                build_ids.insert(vma.path.clone(), read);
                read
            }
        };
        Text {
            start: vma.start,
            end: vma.end,
            file_offset: vma.file_offset,
            is_host,
            build_id,
        }
    })
    .collect()
}

fn find(texts: &[Text], address: u64) -> Option<Text> {
    let at = texts.partition_point(|text| text.end <= address);
    texts.get(at).filter(|text| text.start <= address).cloned()
}

/// The text that an address lies in; the mappings are read anew if it is in none that is known.
pub(crate) fn text_at(address: u64) -> Option<Text> {
    known_text_at(address).or_else(|| {
        let fresh = Arc::new(read_texts());
        *TEXTS.write() = Some(Arc::clone(&fresh));
        find(&fresh, address)
    })
}

/// As [`text_at`], by what was read before.
pub(crate) fn known_text_at(address: u64) -> Option<Text> {
    let known = TEXTS.read().clone();
    find(known.as_deref()?, address)
}

/// The build id of a 64-bit ELF file: the note of owner `GNU` and type 3. Source: elf(5).
fn build_id(path: &str) -> Option<[u8; BUILD_ID_BYTES]> {
    const HEADER_BYTES: usize = 64;
    const SEGMENT_BYTES: usize = 56;
    const SEGMENTS_MAX: usize = 64;
    const NOTE_BYTES_MAX: u64 = 1 << 16;
    const PT_NOTE: u32 = 4;
    let file = File::open(path).ok()?;
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    };
    let header = read(0, HEADER_BYTES)?;
    if header[..5] != *b"\x7fELF\x02" {
        return None;
    }
    let segments_at = u64_at(&header, 32)?;
    let count = usize::from(u16::from_le_bytes([header[56], header[57]])).min(SEGMENTS_MAX);
    let segments = read(segments_at, count * SEGMENT_BYTES)?;
    segments.chunks(SEGMENT_BYTES).find_map(|segment| {
        let (at, len) = (u64_at(segment, 8)?, u64_at(segment, 32)?);
        if u32_at(segment, 0)? != PT_NOTE || len > NOTE_BYTES_MAX {
            return None;
        }
        note_build_id(&read(at, len as usize)?)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn note_build_id(mut notes: &[u8]) -> Option<[u8; BUILD_ID_BYTES]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    const NOTE_HEADER_BYTES: usize = 12;
    loop {
        let (name_bytes, desc_bytes) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
        let desc_at = NOTE_HEADER_BYTES.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let name = notes.get(NOTE_HEADER_BYTES..NOTE_HEADER_BYTES.checked_add(name_bytes)?)?;
        let desc = notes.get(desc_at..desc_at.checked_add(desc_bytes)?)?;
        let fits = (1..=BUILD_ID_BYTES).contains(&desc_bytes);
        if u32_at(notes, 8)? == NT_GNU_BUILD_ID && name == b"GNU\0" && fits {
            let mut id = [0; BUILD_ID_BYTES];
            id[..desc_bytes].copy_from_slice(desc);
            return Some(id);
        }
        notes = notes.get(desc_at.checked_add(desc_bytes.checked_next_multiple_of(4)?)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_function_lies_in_text_of_the_host() {
        let address = build_id as *const () as u64;
        let text = text_at(address).unwrap();
        assert!(text.is_host);
        assert!(text.offset_of(address) < 1 << 32);
        assert_eq!(text_at(8), None);
        let vma = vmas()
            .into_iter()
            .find(|vma| (vma.start..vma.end).contains(&address));
        assert_eq!(vma.unwrap().flags & 7, 5);
    }

    #[test]
    fn build_ids_are_read_from_notes_and_nothing_else() {
        let note = |name: &[u8], kind: u32, desc: &[u8]| {
            let mut bytes = Vec::new();
            for word in [name.len() as u32, desc.len() as u32, kind] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(desc);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let id = [7; BUILD_ID_BYTES];
        let notes = [note(b"GNU\0", 1, b"abi"), note(b"GNU\0", 3, &id)].concat();
        assert_eq!(note_build_id(&notes), Some(id));
        let mut short = [0; BUILD_ID_BYTES];
        short[..8].fill(5);
        assert_eq!(note_build_id(&note(b"GNU\0", 3, &[5; 8])), Some(short));
        for wrong in [
            note(b"Go\0\0", 3, &id),
            note(b"GNU\0", 3, &[1; 21]),
            note(b"GNU\0", 3, &[]),
            notes[..notes.len() - 1].to_owned(),
            vec![0xff; 64],
            Vec::new(),
        ] {
            assert_eq!(note_build_id(&wrong), None, "{wrong:02x?}");
        }
        assert_eq!(build_id("/proc/self/maps"), None);
        assert_eq!(build_id("/nonexistent"), None);
    }
}
