//! `struct bpf_prog_info`: facts of a program, and lists copied as far as the caller has room.

use std::{sync::Arc, time::SystemTime};

use ring3_isa::RawInsn;
use ring3_objects::Program;
use ring3_runtime::ProgObject;
use ring3_spec::AttachTarget;
use ring3_uapi::Errno;

use super::Info;
use crate::shim::Call;

/// Bytes of the structure. Source: linux/bpf.h, Linux 6.18.
pub(super) const PROG_INFO_BYTES: usize = 232;

/// Bytes of records. Source: linux/bpf.h.
const FUNC_INFO_BYTES: u32 = 8;
const LINE_INFO_BYTES: u32 = 16;
const JITED_LINE_BYTES: u32 = 8;

/// A list of the structure: where its length, and where its address stand.
struct List {
    len_at: usize,
    address_at: usize,
}

const JITED: List = List {
    len_at: 16,
    address_at: 24,
};
const XLATED: List = List {
    len_at: 20,
    address_at: 32,
};
const MAP_IDS: List = List {
    len_at: 52,
    address_at: 56,
};
const KSYMS: List = List {
    len_at: 104,
    address_at: 112,
};
const FUNC_LENS: List = List {
    len_at: 108,
    address_at: 120,
};
const FUNC_INFO: List = List {
    len_at: 144,
    address_at: 136,
};
const LINE_INFO: List = List {
    len_at: 148,
    address_at: 152,
};
const JITED_LINES: List = List {
    len_at: 168,
    address_at: 160,
};
const TAGS: List = List {
    len_at: 180,
    address_at: 184,
};

/// Fills the structure and copies the lists that it has room for.
pub(super) fn fill(call: &mut Call<'_>, prog: &Arc<Program>, info: &mut Info) -> Result<(), Errno> {
    info.put_u32(0, prog.prog_type().raw());
    info.put_u32(4, prog.id());
    info.put(8, &prog.tag());
    info.put_u64(40, loaded_ns(prog));
    info.put_u32(48, prog.loaded_by().uid);
    info.put_name(64, prog.name());
    info.put_u32(84, u32::from(is_gpl_compatible(prog)));
    let ids = prog.map_ids().into_iter();
    let map_ids: Vec<u8> = ids.flat_map(u32::to_ne_bytes).collect();
    MAP_IDS.copy(call, info, &map_ids, 4)?;
    check_record_sizes(info)?;
    let runs = prog.runs();
    info.put_u64(192, runs.time_ns());
    info.put_u64(200, runs.count());
    info.put_u64(208, runs.recursion_misses());
    info.put_u32(
        216,
        u32::try_from(prog.verified().stats.insns_processed).unwrap_or(u32::MAX),
    );
    if let Some(btf) = prog.btf_object() {
        info.put_u32(128, btf.id());
    }
    if !prog.attr().attach_btf_id.is_void() {
        let of_target = |target: Arc<Program>| target.btf_object().map(|btf| btf.id());
        let object = match prog.attr().attach {
            AttachTarget::Prog(_) => prog.load_target().and_then(of_target),
            _ => call.system.kernel_btf_id(),
        };
        info.put_u32(220, object.unwrap_or(0));
        info.put_u32(224, prog.attr().attach_btf_id.0);
    }
    if !call.caller.privilege().may_bpf() {
        for list in [
            &JITED,
            &XLATED,
            &KSYMS,
            &FUNC_LENS,
            &FUNC_INFO,
            &LINE_INFO,
            &JITED_LINES,
        ] {
            info.put_u32(list.len_at, 0);
        }
        return Ok(());
    }
    XLATED.copy(call, info, &xlated(prog), 1)?;
    let code = Code::of(prog);
    JITED.copy(call, info, &code.bytes, 1)?;
    KSYMS.copy(call, info, &code.func_addresses, 8)?;
    FUNC_LENS.copy(call, info, &code.func_lens, 4)?;
    FUNC_INFO.copy(call, info, &func_info(prog), FUNC_INFO_BYTES as usize)?;
    let lines = line_info(prog);
    LINE_INFO.copy(call, info, &lines, LINE_INFO_BYTES as usize)?;
    let jited_lines = code.line_addresses(&lines);
    JITED_LINES.copy(call, info, &jited_lines, JITED_LINE_BYTES as usize)?;
    let tags = prog.tag().repeat(prog.verified().subprogs.len().max(1));
    TAGS.copy(call, info, &tags, 8)
}

impl List {
    /// Copies whole elements as far as there is room, and states how many there are.
    fn copy(
        &self,
        call: &mut Call<'_>,
        info: &mut Info,
        bytes: &[u8],
        elem_bytes: usize,
    ) -> Result<(), Errno> {
        let room = info.u32(self.len_at) as usize;
        let count = bytes.len() / elem_bytes;
        info.put_u32(self.len_at, count as u32);
        let copied = room.min(count) * elem_bytes;
        if copied > 0 {
            call.memory
                .write(info.u64(self.address_at), &bytes[..copied])?;
        }
        Ok(())
    }
}

/// Record sizes must be ours, or zero where no records are asked for.
fn check_record_sizes(info: &mut Info) -> Result<(), Errno> {
    for (list, size_at, bytes) in [
        (&FUNC_INFO, 132, FUNC_INFO_BYTES),
        (&LINE_INFO, 172, LINE_INFO_BYTES),
        (&JITED_LINES, 176, JITED_LINE_BYTES),
    ] {
        let given = info.u32(size_at);
        if (info.u32(list.len_at) != 0 || given != 0) && given != bytes {
            return Err(Errno::EINVAL);
        }
        info.put_u32(size_at, bytes);
    }
    Ok(())
}

fn is_gpl_compatible(prog: &Program) -> bool {
    let mut request = ring3_spec::LoadRequest::new(prog.attr().prog_type, Vec::new());
    request.license.clone_from(&prog.attr().license);
    request.is_gpl_compatible()
}

/// When it was loaded, in nanoseconds since the start of the machine.
fn loaded_ns(prog: &Program) -> u64 {
    let age = SystemTime::now()
        .duration_since(prog.loaded_at())
        .unwrap_or_default();
    ring3_os::time::boot_ns().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
}

/// The program after rewrites, maps named by id.
fn xlated(prog: &Program) -> Vec<u8> {
    let verified = prog.verified();
    let mut insns: Vec<RawInsn> = verified.insns.clone();
    for (slot, fact) in verified.facts.iter().enumerate() {
        let Some(map) = fact.map.and_then(|index| prog.map_by_index(index)) else {
            continue;
        };
        if let Some(insn) = insns.get_mut(slot) {
            let source = if fact.is_map_value { 2 } else { 1 };
            let offset = insn.imm;
            *insn = RawInsn::new(insn.code, insn.dst(), source, insn.off, map.id() as i32);
            if fact.is_map_value
                && let Some(second) = insns.get_mut(slot + 1)
            {
                second.imm = offset;
            }
        }
    }
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

fn func_info(prog: &Program) -> Vec<u8> {
    if prog.attr().func_info.count == 0 {
        return Vec::new();
    }
    let records = prog.verified().subprogs.iter();
    records
        .flat_map(|subprog| [subprog.start.to_ne_bytes(), subprog.type_id.to_ne_bytes()].concat())
        .collect()
}

/// Line records moved to where their instructions went; those of removed instructions are left out.
fn line_info(prog: &Program) -> Vec<u8> {
    let given = &prog.attr().line_info;
    if given.rec_size < LINE_INFO_BYTES {
        return Vec::new();
    }
    let facts = &prog.verified().facts;
    let mut lines = Vec::new();
    let mut slot = 0;
    for record in given.bytes.chunks_exact(given.rec_size as usize) {
        let Some(original) = record.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) else {
            continue;
        };
        while facts.get(slot).is_some_and(|fact| fact.orig_idx < original) {
            slot += 1;
        }
        if facts
            .get(slot)
            .is_some_and(|fact| fact.orig_idx == original)
        {
            lines.extend_from_slice(&(slot as u32).to_ne_bytes());
            lines.extend_from_slice(&record[4..LINE_INFO_BYTES as usize]);
        }
    }
    lines
}

/// Machine code, cut at functions.
struct Code {
    bytes: Vec<u8>,
    func_addresses: Vec<u8>,
    func_lens: Vec<u8>,
    /// First address of each slot that has code, sorted by slot; of a function's first slot, where the function begins.
    slots: Vec<(u32, u64)>,
}

impl Code {
    fn of(prog: &Program) -> Code {
        let count = prog.verified().subprogs.len().max(1);
        let Some(listing) = prog.engine().listing() else {
            return Code {
                bytes: Vec::new(),
                func_addresses: vec![0; count * 8],
                func_lens: vec![0; count * 4],
                slots: Vec::new(),
            };
        };
        let bytes: Vec<u8> = listing
            .lines
            .iter()
            .flat_map(|line| line.bytes.iter().copied())
            .collect();
        let mut slots: Vec<(u32, u64)> = Vec::new();
        for line in &listing.lines {
            if let Some(slot) = line.slot {
                slots.push((slot, listing.address + u64::from(line.offset)));
            }
        }
        slots.sort_unstable();
        slots.dedup_by_key(|(slot, _)| *slot);
        if let Some((_, address)) = slots.first_mut() {
            // What comes before the first instruction belongs to it.
            *address = listing.address;
        }
        let mut code = Code {
            bytes,
            func_addresses: Vec::new(),
            func_lens: Vec::new(),
            slots,
        };
        let end = listing.address + code.bytes.len() as u64;
        let mut starts: Vec<u64> = prog
            .verified()
            .subprogs
            .iter()
            .skip(1)
            .map(|subprog| code.address_of(subprog.start))
            .collect();
        starts.insert(0, listing.address);
        for (i, &start) in starts.iter().enumerate() {
            let next = starts.get(i + 1).copied().unwrap_or(end);
            code.func_addresses.extend_from_slice(&start.to_ne_bytes());
            code.func_lens
                .extend_from_slice(&(next.saturating_sub(start) as u32).to_ne_bytes());
        }
        code
    }

    /// The address of a slot's code, or of the next one that has any.
    fn address_of(&self, slot: u32) -> u64 {
        let at = self.slots.partition_point(|(known, _)| *known < slot);
        self.slots
            .get(at)
            .or(self.slots.last())
            .map_or(0, |(_, address)| *address)
    }

    fn line_addresses(&self, lines: &[u8]) -> Vec<u8> {
        if self.slots.is_empty() {
            return Vec::new();
        }
        let records = lines.as_chunks::<{ LINE_INFO_BYTES as usize }>().0.iter();
        records
            .filter_map(|record| record.first_chunk())
            .flat_map(|slot| self.address_of(u32::from_ne_bytes(*slot)).to_ne_bytes())
            .collect()
    }
}
