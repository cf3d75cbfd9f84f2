//! `.BTF.ext`: function, line and CO-RE records per ELF section; and function and line records as `BPF_PROG_LOAD`
//! carries them.
//!
//! In `.BTF.ext` instruction offsets are bytes from the start of an ELF section; in a program they are instruction
//! slots from its start. The same structs hold both, the reader says which.

use crate::raw::{MAGIC, VERSION, u32_at};
use crate::{Btf, BtfError, TypeId};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// A function begins here and has this `FUNC` type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuncInfo {
    /// where it begins
    pub insn_off: u32,
    /// its type
    pub type_id: TypeId,
}

/// From here on instructions belong to this source line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// first instruction
    pub insn_off: u32,
    /// string offset of the file name
    pub file_name_off: u32,
    /// string offset of the source line's text
    pub line_off: u32,
    /// line number and column, packed
    pub line_col: u32,
}

impl LineInfo {
    /// The line number.
    pub const fn line(&self) -> u32 {
        self.line_col >> 10
    }

    /// The column.
    pub const fn column(&self) -> u32 {
        self.line_col & 0x3ff
    }
}

/// An instruction depends on the running kernel's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreRelo {
    /// the instruction
    pub insn_off: u32,
    /// the local root type
    pub type_id: TypeId,
    /// string offset of the access string, such as `0:1:2`
    pub access_str_off: u32,
    /// what is asked; [`crate::core_relo::ReloKind`] as a number
    pub kind: u32,
}

/// A record of fixed size whose words are known.
pub trait ExtRecord: Copy {
    /// Bytes of the words that are known.
    const BYTES: usize;
    /// Reads the known words of a record of at least [`Self::BYTES`] bytes.
    fn read(record: &[u8]) -> Option<Self>;
    /// Appends the known words.
    fn write(&self, out: &mut Vec<u8>);
}

impl ExtRecord for FuncInfo {
    const BYTES: usize = 8;

    fn read(record: &[u8]) -> Option<Self> {
        Some(FuncInfo {
            insn_off: u32_at(record, 0)?,
            type_id: TypeId(u32_at(record, 4)?),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.insn_off.to_le_bytes());
        out.extend_from_slice(&self.type_id.0.to_le_bytes());
    }
}

impl ExtRecord for LineInfo {
    const BYTES: usize = 16;

    fn read(record: &[u8]) -> Option<Self> {
        Some(LineInfo {
            insn_off: u32_at(record, 0)?,
            file_name_off: u32_at(record, 4)?,
            line_off: u32_at(record, 8)?,
            line_col: u32_at(record, 12)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        for word in [
            self.insn_off,
            self.file_name_off,
            self.line_off,
            self.line_col,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

impl ExtRecord for CoreRelo {
    const BYTES: usize = 16;

    fn read(record: &[u8]) -> Option<Self> {
        Some(CoreRelo {
            insn_off: u32_at(record, 0)?,
            type_id: TypeId(u32_at(record, 4)?),
            access_str_off: u32_at(record, 8)?,
            kind: u32_at(record, 12)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        for word in [
            self.insn_off,
            self.type_id.0,
            self.access_str_off,
            self.kind,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// Reads records as a program load passes them: `bytes` holds whole records of `rec_size` bytes; words beyond the
/// known ones are skipped.
///
/// # Errors
/// EINVAL: `rec_size` too small or not a multiple of 4, or a torn record.
pub fn read_records<T: ExtRecord>(bytes: &[u8], rec_size: usize) -> Result<Vec<T>, BtfError> {
    if rec_size < T::BYTES || !rec_size.is_multiple_of(4) || !bytes.len().is_multiple_of(rec_size) {
        return Err(BtfError::new(
            Errno::EINVAL,
            format!(
                "btf: {} bytes of records of {rec_size} bytes, expected records of at least {}",
                bytes.len(),
                T::BYTES
            ),
        ));
    }
    Ok(bytes.chunks_exact(rec_size).filter_map(T::read).collect())
}

/// The bytes of records of [`ExtRecord::BYTES`] bytes.
pub fn write_records<T: ExtRecord>(records: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * T::BYTES);
    for record in records {
        record.write(&mut out);
    }
    out
}

/// The records of one kind for one ELF section, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionRecords<T> {
    /// the ELF section
    pub section: String,
    /// its records; offsets are bytes from the start of the section
    pub records: Vec<T>,
}

/// A parsed `.BTF.ext` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BtfExt {
    /// where functions begin
    pub func_info: Vec<SectionRecords<FuncInfo>>,
    /// where source lines begin
    pub line_info: Vec<SectionRecords<LineInfo>>,
    /// what depends on the running kernel
    pub core_relo: Vec<SectionRecords<CoreRelo>>,
}

impl BtfExt {
    /// Parses the section; `btf` holds its strings.
    ///
    /// # Errors
    /// EINVAL, ENOTSUPP: a header or table that libbpf refuses too.
    pub fn parse(bytes: &[u8], btf: &Btf) -> Result<BtfExt, BtfError> {
        let field = |offset: usize| {
            u32_at(bytes, offset)
                .ok_or_else(|| inval(format!(".BTF.ext: header cut off at byte {}", bytes.len())))
        };
        let first = field(0)?;
        if first & 0xffff == u32::from(MAGIC.swap_bytes()) {
            return Err(BtfError::new(
                Errno::ENOTSUPP,
                ".BTF.ext: big-endian section on a little-endian target",
            ));
        }
        if first & 0xffff != u32::from(MAGIC) {
            return Err(inval(format!(
                ".BTF.ext: magic {:#x}, expected {MAGIC:#x}",
                first & 0xffff
            )));
        }
        if first >> 16 & 0xff != u32::from(VERSION) {
            return Err(BtfError::new(
                Errno::ENOTSUPP,
                format!(
                    ".BTF.ext: version {}, expected {VERSION}",
                    first >> 16 & 0xff
                ),
            ));
        }
        if first >> 24 != 0 {
            return Err(BtfError::new(
                Errno::ENOTSUPP,
                format!(".BTF.ext: flags {:#x}, expected 0", first >> 24),
            ));
        }
        let hdr_len = field(4)? as usize;
        if hdr_len < 24 || hdr_len > bytes.len() {
            return Err(inval(format!(
                ".BTF.ext: header length {hdr_len} in a section of {} bytes",
                bytes.len()
            )));
        }
        let body = &bytes[hdr_len..];
        let mut ext = BtfExt {
            func_info: read_table(body, field(8)?, field(12)?, btf, "func_info")?,
            line_info: read_table(body, field(16)?, field(20)?, btf, "line_info")?,
            core_relo: Vec::new(),
        };
        if hdr_len >= 32 {
            ext.core_relo = read_table(body, field(24)?, field(28)?, btf, "core_relo")?;
        }
        Ok(ext)
    }
}

fn inval(message: String) -> BtfError {
    BtfError::new(Errno::EINVAL, message)
}

fn read_table<T: ExtRecord>(
    body: &[u8],
    offset: u32,
    bytes: u32,
    btf: &Btf,
    what: &str,
) -> Result<Vec<SectionRecords<T>>, BtfError> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    if !offset.is_multiple_of(4) {
        return Err(inval(format!(
            ".BTF.ext: {what} at {offset}, expected a multiple of 4"
        )));
    }
    let (start, end) = (
        offset as usize,
        (offset as usize).saturating_add(bytes as usize),
    );
    let Some(mut rest) = body.get(start..end) else {
        return Err(inval(format!(
            ".BTF.ext: {what} at {offset} of {bytes} bytes ends outside of the section"
        )));
    };
    let torn = || inval(format!(".BTF.ext: {what} ends inside of a record"));
    let mut take = |count: usize| -> Result<&[u8], BtfError> {
        let (head, tail) = rest.split_at_checked(count).ok_or_else(torn)?;
        rest = tail;
        Ok(head)
    };
    let rec_size = u32_at(take(4)?, 0).ok_or_else(torn)? as usize;
    if rec_size < T::BYTES || !rec_size.is_multiple_of(4) {
        return Err(inval(format!(
            ".BTF.ext: {what} has records of {rec_size} bytes, expected at least {}",
            T::BYTES
        )));
    }
    let mut sections = Vec::new();
    let mut left = (bytes as usize).saturating_sub(4);
    if left == 0 {
        return Err(inval(format!(".BTF.ext: {what} has no records")));
    }
    while left > 0 {
        let head = take(8)?;
        let name_off = u32_at(head, 0).ok_or_else(torn)?;
        let count = u32_at(head, 4).ok_or_else(torn)? as usize;
        if count == 0 {
            return Err(inval(format!(
                ".BTF.ext: {what} has a section of 0 records"
            )));
        }
        let len = count.checked_mul(rec_size).ok_or_else(torn)?;
        let records = take(len)?;
        left = left.saturating_sub(8).saturating_sub(len);
        let section = btf.str_by_offset(name_off).ok_or_else(|| {
            inval(format!(
                ".BTF.ext: {what} names a section at string offset {name_off}"
            ))
        })?;
        sections.push(SectionRecords {
            section: section.to_string(),
            records: records.chunks_exact(rec_size).filter_map(T::read).collect(),
        });
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use alloc::vec;

    fn btf() -> Btf {
        let mut builder = Builder::new();
        builder.string("xdp");
        Btf::parse(&builder.finish()).unwrap()
    }

    fn section(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn reads_three_tables_with_wider_records() {
        let bytes = section(&[
            0x0001_eb9f,
            32,
            0,
            24,
            24,
            28,
            52,
            28, // header
            12,
            1,
            1,
            16,
            3,
            99, // func_info: record of 12 bytes
            16,
            1,
            1,
            8,
            2,
            3,
            5 << 10 | 7, // line_info
            16,
            1,
            1,
            24,
            4,
            5,
            2, // core_relo
        ]);
        let ext = BtfExt::parse(&bytes, &btf()).unwrap();
        assert_eq!(
            ext.func_info,
            vec![SectionRecords {
                section: "xdp".into(),
                records: vec![FuncInfo {
                    insn_off: 16,
                    type_id: TypeId(3)
                }]
            }]
        );
        let line = ext.line_info[0].records[0];
        assert_eq!((line.line(), line.column()), (5, 7));
        assert_eq!(ext.core_relo[0].records[0].kind, 2);
    }

    #[test]
    fn torn_tables_are_errors() {
        let good = section(&[0x0001_eb9f, 24, 0, 20, 20, 0, 8, 1, 1, 16, 3]);
        assert!(BtfExt::parse(&good, &btf()).is_ok());
        for len in 0..good.len() {
            assert!(BtfExt::parse(&good[..len], &btf()).is_err(), "{len}");
        }
        let huge_count = section(&[0x0001_eb9f, 24, 0, 20, 20, 0, 8, 1, u32::MAX, 16, 3]);
        assert!(BtfExt::parse(&huge_count, &btf()).is_err());
        let beyond = section(&[0x0001_eb9f, 24, u32::MAX - 3, 20, 20, 0, 8, 1, 1, 16, 3]);
        assert!(BtfExt::parse(&beyond, &btf()).is_err());
    }

    #[test]
    fn program_records_skip_unknown_words() {
        let bytes = section(&[0, 7, 1, 5, 8, 1]);
        let records: Vec<FuncInfo> = read_records(&bytes, 12).unwrap();
        assert_eq!(
            records[1],
            FuncInfo {
                insn_off: 5,
                type_id: TypeId(8)
            }
        );
        assert!(read_records::<FuncInfo>(&bytes, 4).is_err());
        assert!(read_records::<FuncInfo>(&bytes, 16).is_err());
        assert_eq!(write_records(&records).len(), 16);
    }
}
