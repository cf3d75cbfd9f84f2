//! `func_info`, `line_info` and `core_relos`: records of sizes that the loader chose, checked in two steps.
//!
//! Early: `func_info` alone ([`check_func_info_early`]), because it names the exception callback. Late, when functions
//! are known: that `func_info` and the code agree ([`check_func_info`]), lines ([`check_line_info`]) and CO-RE
//! relocations ([`apply_core_relos`], which change instructions).
//! Kernel counterpart: `check_btf_info_early`, `check_btf_info`. Neighbours: `subprogs`, ring3-btf.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ring3_btf::core_relo::Relocator;
use ring3_btf::{Btf, CoreRelo, Kind, Type, TypeId};
use ring3_isa::RawInsn;
use ring3_spec::{InfoRecords, LoadRequest};
use ring3_uapi::Errno;

use crate::env::{LineInfo, Subprog};
use crate::error::{Check, Violation, reject, unjudged};

/// Largest record. Source: `MAX_FUNCINFO_REC_SIZE` and its siblings.
const RECORD_BYTES_MAX: u32 = 252;
const FUNC_INFO_BYTES: u32 = 8;
const LINE_INFO_BYTES: u32 = 16;
const CORE_RELO_BYTES: u32 = 16;

/// A `func_info` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FuncInfo {
    pub(crate) insn_off: u32,
    pub(crate) type_id: TypeId,
}

/// The records of a table, each cut or zero-extended to the size known here; the first bad one is an error in its place.
struct Records<'a> {
    table: &'a InfoRecords,
    known_bytes: u32,
    what: &'static str,
}

impl Records<'_> {
    fn get(&self, idx: u32) -> Check<[u32; 4]> {
        let stride = self.table.rec_size as usize;
        let start = idx as usize * stride;
        let Some(record) = self.table.bytes.get(start..start + stride) else {
            return Err(Violation::silent(Errno::EFAULT));
        };
        let known = (self.known_bytes as usize).min(stride);
        if record[known..].iter().any(|&byte| byte != 0) {
            return Err(open_line(
                Errno::E2BIG,
                format!("nonzero tailing record in {}", self.what),
            ));
        }
        let mut words = [0u32; 4];
        for (word, bytes) in words.iter_mut().zip(record[..known].chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(words)
    }
}

/// The kernel ends these texts without a newline.
fn open_line(errno: Errno, text: String) -> Box<Violation> {
    Violation::unterminated(errno, text)
}

fn is_record_size(size: u32, min: u32) -> bool {
    size >= min && size <= RECORD_BYTES_MAX && size.is_multiple_of(4)
}

/// The BTF that info records refer to; none is needed without records.
fn btf_of(req: &LoadRequest) -> Check<Option<&Btf>> {
    if req.func_info.count == 0 && req.line_info.count == 0 {
        return Ok(req.btf.as_ref());
    }
    match &req.btf {
        Some(btf) => Ok(Some(btf)),
        None => Err(Violation::silent(Errno::EBADF)),
    }
}

/// Reads `func_info` and checks what can be checked before functions are known.
///
/// # Errors
/// EINVAL, E2BIG (non-zero bytes beyond the record's known part), EFAULT, EBADF (no BTF).
pub(crate) fn check_func_info_early(req: &LoadRequest) -> Check<Vec<FuncInfo>> {
    let Some(btf) = btf_of(req)? else {
        return Ok(Vec::new());
    };
    let table = &req.func_info;
    if table.count == 0 {
        return Ok(Vec::new());
    }
    if !is_record_size(table.rec_size, FUNC_INFO_BYTES) {
        reject!(EINVAL, "invalid func info rec size {}", table.rec_size);
    }
    let records = Records {
        table,
        known_bytes: FUNC_INFO_BYTES,
        what: "func info",
    };
    let mut infos: Vec<FuncInfo> = Vec::new();
    for idx in 0..table.count {
        let [insn_off, type_id, ..] = records.get(idx)?;
        match infos.last() {
            None if insn_off != 0 => {
                let text = format!("nonzero insn_off {insn_off} for the first func info record");
                return Err(open_line(Errno::EINVAL, text));
            }
            Some(previous) if insn_off <= previous.insn_off => {
                let text = format!(
                    "same or smaller insn offset ({insn_off}) than previous func info record ({})",
                    previous.insn_off
                );
                return Err(open_line(Errno::EINVAL, text));
            }
            None | Some(_) => {}
        }
        let type_id = TypeId(type_id);
        let Some(func) = btf.type_by_id(type_id).filter(|ty| ty.kind() == Kind::Func) else {
            return Err(open_line(
                Errno::EINVAL,
                format!("invalid type id {} in func info", type_id.0 as i32),
            ));
        };
        if func
            .referent()
            .is_none_or(|proto| proto.kind() != Kind::FuncProto)
        {
            reject!(EINVAL);
        }
        infos.push(FuncInfo { insn_off, type_id });
    }
    Ok(infos)
}

/// Checks that `func_info` describes the functions that were found.
///
/// # Errors
/// EINVAL.
pub(crate) fn check_func_info(
    infos: &[FuncInfo],
    subprogs: &[Subprog],
    btf: Option<&Btf>,
) -> Check {
    let (Some(btf), false) = (btf, infos.is_empty()) else {
        return check_abnormal_return(subprogs);
    };
    if infos.len() != subprogs.len() {
        reject!(
            EINVAL,
            "number of funcs in func_info doesn't match number of subprogs"
        );
    }
    for (idx, (info, subprog)) in infos.iter().zip(subprogs).enumerate() {
        if info.insn_off != subprog.start {
            reject!(
                EINVAL,
                "func_info BTF section doesn't match subprog layout in BPF program"
            );
        }
        if idx == 0 || returns_int(btf, info.type_id) {
            continue;
        }
        if subprog.has_ld_abs {
            reject!(
                EINVAL,
                "LD_ABS is only allowed in functions that return 'int'."
            );
        }
        if subprog.has_tail_call {
            reject!(
                EINVAL,
                "tail_call is only allowed in functions that return 'int'."
            );
        }
    }
    Ok(())
}

fn returns_int(btf: &Btf, func: TypeId) -> bool {
    let proto = btf.type_by_id(func).and_then(|func| func.referent());
    let ret = proto.and_then(|proto| btf.stripped(proto.type_id()));
    ret.is_some_and(|ret: Type<'_>| match ret.kind() {
        Kind::Int => ret.size() <= 8,
        kind => kind.is_any_enum(),
    })
}

/// Without BTF nobody knows what a subprogram returns, and these end a function with a value of their own.
fn check_abnormal_return(subprogs: &[Subprog]) -> Check {
    for subprog in subprogs.iter().skip(1) {
        if subprog.has_ld_abs {
            reject!(EINVAL, "LD_ABS is not allowed in subprogs without BTF");
        }
        if subprog.has_tail_call {
            reject!(EINVAL, "tail_call is not allowed in subprogs without BTF");
        }
    }
    Ok(())
}

/// Whether somebody will read lines: a log or a diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantLines {
    Yes,
    No,
}

/// Reads and checks `line_info`; the lines, if they are `wanted`.
///
/// # Errors
/// EINVAL, E2BIG, EFAULT.
pub(crate) fn check_line_info(
    req: &LoadRequest,
    insns: &[RawInsn],
    subprogs: &[Subprog],
    btf: Option<&Btf>,
    wanted: WantLines,
) -> Check<Vec<LineInfo>> {
    let table = &req.line_info;
    let (Some(btf), true) = (btf, table.count > 0) else {
        return Ok(Vec::new());
    };
    if table.count > i32::MAX as u32 / LINE_INFO_BYTES
        || !is_record_size(table.rec_size, LINE_INFO_BYTES)
    {
        reject!(EINVAL);
    }
    let records = Records {
        table,
        known_bytes: LINE_INFO_BYTES,
        what: "line_info",
    };
    let mut lines = Vec::new();
    if wanted == WantLines::Yes {
        lines.reserve_exact((table.count as usize).min(insns.len()));
    }
    let mut previous = 0;
    let mut next_subprog = 0;
    for idx in 0..table.count {
        let [insn_off, file_name_off, line_off, line_col] = records.get(idx)?;
        if (idx > 0 && insn_off <= previous) || insn_off as usize >= insns.len() {
            reject!(
                EINVAL,
                "Invalid line_info[{idx}].insn_off:{insn_off} (prev_offset:{previous} prog->len:{})",
                insns.len()
            );
        }
        if insns[insn_off as usize].code == 0 {
            reject!(EINVAL, "Invalid insn code at line_info[{idx}].insn_off");
        }
        if btf.str_bytes_by_offset(line_off).is_none()
            || btf.str_bytes_by_offset(file_name_off).is_none()
        {
            reject!(
                EINVAL,
                "Invalid line_info[{idx}].line_off or .file_name_off"
            );
        }
        if let Some(subprog) = subprogs.get(next_subprog) {
            if insn_off == subprog.start {
                next_subprog += 1;
            } else if subprog.start < insn_off {
                reject!(EINVAL, "missing bpf_line_info for func#{next_subprog}");
            }
        }
        previous = insn_off;
        if wanted == WantLines::Yes {
            lines.push(LineInfo {
                insn_off,
                file_name_off,
                line_off,
                line_col,
            });
        }
    }
    if next_subprog != subprogs.len() {
        reject!(
            EINVAL,
            "missing bpf_line_info for {} funcs starting from func#{next_subprog}",
            subprogs.len() - next_subprog
        );
    }
    Ok(lines)
}

/// Applies the CO-RE relocations that the loader left to the kernel.
///
/// # Errors
/// EINVAL, E2BIG, EFAULT; what the relocation itself says, in our words. Unjudged without the kernel's BTF.
pub(crate) fn apply_core_relos(req: &LoadRequest) -> Check<Cow<'_, [RawInsn]>> {
    let table = &req.core_relos;
    let insns = &req.insns;
    // Without func_info and line_info the kernel never looks at relocations.
    if table.count == 0 || (req.func_info.count == 0 && req.line_info.count == 0) {
        return Ok(Cow::Borrowed(insns));
    }
    if table.count > i32::MAX as u32 / CORE_RELO_BYTES
        || !is_record_size(table.rec_size, CORE_RELO_BYTES)
    {
        reject!(EINVAL);
    }
    let Some(local) = &req.btf else {
        return Err(Violation::silent(Errno::EBADF));
    };
    let Some(target) = &req.kernel_btf else {
        unjudged!("CO-RE relocations without the kernel's BTF")
    };
    let records = Records {
        table,
        known_bytes: CORE_RELO_BYTES,
        what: "core_relo",
    };
    let mut relocator = Relocator::new(local, target);
    let mut patched = insns.clone();
    for idx in 0..table.count {
        let [insn_off, type_id, access_str_off, kind] = records.get(idx)?;
        if !insn_off.is_multiple_of(8) || (insn_off / 8) as usize >= insns.len() {
            reject!(
                EINVAL,
                "Invalid core_relo[{idx}].insn_off:{insn_off} prog->len:{}",
                insns.len()
            );
        }
        let relo = CoreRelo {
            insn_off: insn_off / 8,
            type_id: TypeId(type_id),
            access_str_off,
            kind,
        };
        if let Err(error) = relocator.relocate(&req.name, &mut patched, &[relo]) {
            return Err(Violation::new(error.errno(), error.message().into()));
        }
    }
    Ok(Cow::Owned(patched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use ring3_uapi::ProgType;

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);
    const MOV: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);

    /// `[1] INT int; [2] FUNC_PROTO int(void); [3] FUNC f -> 2; [4] FUNC_PROTO void(void); [5] FUNC g -> 4`
    fn btf() -> Btf {
        let mut types: Vec<u32> = vec![];
        types.extend([1, 1 << 24, 4, 1 << 24 | 32]);
        types.extend([0, 13 << 24, 1]);
        types.extend([5, 12 << 24, 2]);
        types.extend([0, 13 << 24, 0]);
        types.extend([7, 12 << 24 | 1, 4]);
        let strings = b"\0int\0f\0g\0";
        let type_bytes = types.len() as u32 * 4;
        let mut blob: Vec<u8> = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, type_bytes, type_bytes, strings.len() as u32] {
            blob.extend(word.to_le_bytes());
        }
        blob.extend(types.iter().flat_map(|word| word.to_le_bytes()));
        blob.extend(strings);
        Btf::parse(&blob).unwrap()
    }

    fn table(rec_size: u32, records: &[&[u32]]) -> InfoRecords {
        let bytes = records
            .iter()
            .flat_map(|record| record.iter().flat_map(|word| word.to_le_bytes()))
            .collect();
        InfoRecords {
            rec_size,
            count: records.len() as u32,
            bytes,
        }
    }

    fn request() -> LoadRequest {
        let mut req = LoadRequest::new(ProgType::SocketFilter, vec![MOV, EXIT, MOV, EXIT]);
        req.btf = Some(btf());
        req
    }

    fn early(func_info: InfoRecords) -> Result<Vec<FuncInfo>, (Errno, String)> {
        let mut req = request();
        req.func_info = func_info;
        check_func_info_early(&req).map_err(|violation| (violation.errno, violation.text))
    }

    #[test]
    fn func_info_records_have_sane_sizes() {
        for size in [0, 4, 7, 10, 253, 256] {
            let error = early(InfoRecords {
                rec_size: size,
                count: 1,
                bytes: vec![0; 256],
            })
            .unwrap_err();
            assert_eq!(
                error,
                (
                    Errno::EINVAL,
                    alloc::format!("invalid func info rec size {size}")
                )
            );
        }
        assert_eq!(early(table(8, &[&[0, 3]])).unwrap().len(), 1);
        assert_eq!(early(table(12, &[&[0, 3, 0]])).unwrap().len(), 1);
        let error = early(table(12, &[&[0, 3, 1]])).unwrap_err();
        assert_eq!(
            error,
            (Errno::E2BIG, "nonzero tailing record in func info".into())
        );
        let cut = InfoRecords {
            rec_size: 8,
            count: 2,
            bytes: vec![0, 0, 0, 0, 3, 0, 0, 0],
        };
        assert_eq!(early(cut).unwrap_err().0, Errno::EFAULT);
    }

    #[test]
    fn func_info_offsets_ascend_from_zero() {
        assert_eq!(
            early(table(8, &[&[1, 3]])).unwrap_err().1,
            "nonzero insn_off 1 for the first func info record"
        );
        assert_eq!(
            early(table(8, &[&[0, 3], &[0, 3]])).unwrap_err().1,
            "same or smaller insn offset (0) than previous func info record (0)"
        );
        assert_eq!(
            early(table(8, &[&[0, 1]])).unwrap_err().1,
            "invalid type id 1 in func info"
        );
    }

    fn two_subprogs() -> Vec<Subprog> {
        let split = |start, end| Subprog {
            start,
            end,
            ..Subprog::default()
        };
        vec![split(0, 2), split(2, 4)]
    }

    #[test]
    fn func_info_matches_the_functions() {
        let btf = btf();
        let infos = early(table(8, &[&[0, 3], &[2, 5]])).unwrap();
        let mut subprogs = two_subprogs();
        assert!(check_func_info(&infos, &subprogs, Some(&btf)).is_ok());
        subprogs[1].has_tail_call = true;
        assert_eq!(
            check_func_info(&infos, &subprogs, Some(&btf))
                .unwrap_err()
                .text,
            "tail_call is only allowed in functions that return 'int'."
        );
        assert_eq!(
            check_func_info(&[], &subprogs, Some(&btf))
                .unwrap_err()
                .text,
            "tail_call is not allowed in subprogs without BTF"
        );
        assert_eq!(
            check_func_info(&infos[..1], &subprogs, Some(&btf))
                .unwrap_err()
                .text,
            "number of funcs in func_info doesn't match number of subprogs"
        );
    }

    fn lines(records: &[&[u32]]) -> Result<Vec<LineInfo>, String> {
        let mut req = request();
        req.line_info = table(16, records);
        check_line_info(
            &req,
            &req.insns,
            &two_subprogs(),
            req.btf.as_ref(),
            WantLines::Yes,
        )
        .map_err(|violation| violation.text)
    }

    #[test]
    fn line_info_ascends_and_covers_every_function() {
        assert_eq!(lines(&[&[0, 0, 0, 0], &[2, 0, 0, 0]]).unwrap().len(), 2);
        assert_eq!(
            lines(&[&[0, 0, 0, 0]]).unwrap_err(),
            "missing bpf_line_info for 1 funcs starting from func#1"
        );
        assert_eq!(
            lines(&[&[1, 0, 0, 0]]).unwrap_err(),
            "missing bpf_line_info for func#0"
        );
        assert_eq!(
            lines(&[&[0, 0, 0, 0], &[0, 0, 0, 0]]).unwrap_err(),
            "Invalid line_info[1].insn_off:0 (prev_offset:0 prog->len:4)"
        );
        assert_eq!(
            lines(&[&[0, 0, 0, 0], &[4, 0, 0, 0]]).unwrap_err(),
            "Invalid line_info[1].insn_off:4 (prev_offset:0 prog->len:4)"
        );
        assert_eq!(
            lines(&[&[0, 99, 0, 0]]).unwrap_err(),
            "Invalid line_info[0].line_off or .file_name_off"
        );
    }

    #[test]
    fn core_relos_name_an_instruction() {
        let mut req = request();
        req.line_info = table(16, &[&[0, 0, 0, 0]]);
        req.core_relos = table(16, &[&[36, 1, 0, 0]]);
        req.kernel_btf = req.btf.clone();
        let error = apply_core_relos(&req).unwrap_err();
        assert_eq!(error.text, "Invalid core_relo[0].insn_off:36 prog->len:4");
    }
}
