//! BPF_PROG_LOAD: attributes to a `ring3_objects::ProgAttr`, and the log back.

use std::{collections::BTreeMap, sync::Arc};

use ring3_btf::TypeId;
use ring3_isa::RawInsn;
use ring3_objects::{ProgAttr, Program};
use ring3_spec::InfoRecords;
use ring3_uapi::{
    AttachType, Errno, ProgType,
    flags::prog_load,
    limits::{PROG_INSNS_MAX, PROG_INSNS_MAX_UNPRIVILEGED},
};

use crate::{
    Caller, OpenFile,
    caller::Named,
    log_buf::LogBuf,
    memory::{read_str, read_vec},
    name::checked_name,
    shim::Call,
};

/// Byte offsets in the attributes.
const LOG_TRUE_SIZE: usize = 140;

/// Flags that BPF_PROG_LOAD knows.
const FLAGS: u32 = prog_load::STRICT_ALIGNMENT
    | prog_load::ANY_ALIGNMENT
    | prog_load::SLEEPABLE
    | prog_load::TEST_STATE_FREQ
    | prog_load::TEST_RND_HI32
    | prog_load::XDP_HAS_FRAGS
    | prog_load::XDP_DEV_BOUND_ONLY
    | prog_load::TEST_REG_INVARIANTS
    | prog_load::TOKEN_FD;

/// Bytes of a license that are looked at.
const LICENSE_BYTES: usize = 127;
/// Largest record of `func_info`, `line_info` and `core_relos`. Source: `MAX_FUNCINFO_REC_SIZE`, the same for all.
const RECORD_BYTES_MAX: u32 = 252;
/// More bytes of records than any accepted program has.
const RECORDS_BYTES_MAX: usize = 64 << 20;
/// Entries of an `fd_array`: more than maps a program may name.
const FD_ARRAY_MAX: u32 = 1 << 20;

/// Source registers of two-slot loads that name a map by descriptor, and by index into `fd_array`.
const BY_FD: [u8; 2] = [1, 2];
const BY_INDEX: [u8; 2] = [5, 6];
/// Source register of calls of kernel functions; a non-zero offset names BTF in `fd_array`.
const KFUNC_CALL: (u8, u8) = (0x85, 2);

/// BPF_PROG_LOAD.
pub(crate) fn load(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attr = &call.attr;
    let flags = attr.u32(44);
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & prog_load::TOKEN_FD != 0 {
        // No command makes a token yet: nothing that is open is one.
        call.caller.file(attr.fd(144))?;
        return Err(Errno::EINVAL);
    }
    let privilege = call.caller.privilege();
    if !privilege.may_bpf() {
        return Err(Errno::EPERM);
    }
    let insn_count = attr.u32(4) as usize;
    let most = if privilege.may_bpf() {
        PROG_INSNS_MAX
    } else {
        PROG_INSNS_MAX_UNPRIVILEGED
    };
    if insn_count == 0 || insn_count > most {
        return Err(Errno::E2BIG);
    }
    let attach_prog = attach_target(call)?;
    let prog_type = ProgType::from_raw(attr.u32(0));
    let attach_type = attr.u32(68);
    let attaches_by_btf = matches!(
        prog_type,
        Some(ProgType::Tracing | ProgType::Lsm | ProgType::StructOps | ProgType::Ext)
    );
    if attr.u32(108) != 0 && !attaches_by_btf {
        return Err(Errno::EINVAL);
    }
    check_attach_type(prog_type, attach_type)?;
    if attr.u64(152) != 0 {
        // Signed programs.
        return Err(Errno::ENOTSUPP);
    }
    let bytes = read_vec(call.memory, attr.u64(8), insn_count * 8)?;
    let (license, _) = read_str(call.memory, attr.u64(16), LICENSE_BYTES)?;
    if attr.u32(64) != 0 {
        // Offload: there is no such device.
        return Err(Errno::EINVAL);
    }
    let prog_type = prog_type
        .filter(|&known| known != ProgType::Unspec)
        .ok_or(Errno::EINVAL)?;
    let insns = bytes.as_chunks::<8>().0.iter();
    let mut prog = ProgAttr::new(
        prog_type,
        insns.map(|&insn| RawInsn::from_bytes(insn)).collect(),
    );
    prog.expected_attach_type = attach_type;
    prog.flags = flags;
    prog.license = String::from_utf8_lossy(&license).into_owned();
    prog.name = checked_name(attr.array(48))?;
    prog.privilege = privilege;
    prog.attach_prog = attach_prog;
    prog.attach_btf_id = TypeId(attr.u32(108));
    let log = LogBuf::new(attr.u32(24), attr.u32(28), attr.u64(32))?;
    prog.log_level = log.verifier_level();
    let prog_btf = attr.fd(72);
    prog.func_info = records(call, 76, 80, 88);
    prog.line_info = records(call, 92, 96, 104);
    prog.core_relos = records(call, 136, 128, 116);
    // Without records of functions or lines neither BTF nor relocations are looked at.
    let btf_object = if prog.func_info.count != 0 || prog.line_info.count != 0 {
        Some(call.caller.btf(prog_btf)?)
    } else {
        prog.core_relos = InfoRecords::default();
        None
    };
    prog.btf = btf_object.as_ref().map(|object| object.btf().clone());
    read_fd_array(call, &mut prog)?;
    name_fds(call.caller, &mut prog);
    let mut text = log.verifier_log();
    let loaded = Program::load_logged(call.system, prog, &mut text);
    let (true_size, logged) = log.finish(text.as_str(), text.position(), call.memory);
    if call.attr.size() >= LOG_TRUE_SIZE + 4 {
        call.attr.put_u32(LOG_TRUE_SIZE, true_size);
    }
    logged?;
    let program = loaded.map_err(|error| error.error.errno)?;
    if let Some(object) = btf_object {
        program.hold_btf(object);
    }
    Ok(i64::from(call.caller.open(OpenFile::Prog(program))?))
}

/// What `attach_prog_fd` or `attach_btf_obj_fd` names.
fn attach_target(call: &Call<'_>) -> Result<Option<Arc<Program>>, Errno> {
    let fd = call.attr.fd(112);
    if fd == 0 {
        return Ok(None);
    }
    match call.caller.file(fd) {
        Ok(OpenFile::Prog(prog)) => Ok(Some(prog)),
        // BTF of a program, as the kernel says.
        Ok(OpenFile::Btf(_)) => Err(Errno::ENOTSUPP),
        Ok(_) | Err(_) => Err(Errno::EINVAL),
    }
}

/// Program types whose `expected_attach_type` is judged before anything is read.
///
/// # Source
/// Probed on Linux 6.18; `libbpf`'s documentation of program types lists the pairs.
fn check_attach_type(prog_type: Option<ProgType>, raw: u32) -> Result<(), Errno> {
    use AttachType as A;
    let allowed: &[A] = match prog_type {
        Some(ProgType::CgroupSock) => &[
            A::CgroupInetSockCreate,
            A::CgroupInetSockRelease,
            A::CgroupInet4PostBind,
            A::CgroupInet6PostBind,
        ],
        Some(ProgType::CgroupSockAddr) => &[
            A::CgroupInet4Bind,
            A::CgroupInet6Bind,
            A::CgroupInet4Connect,
            A::CgroupInet6Connect,
            A::CgroupUnixConnect,
            A::CgroupUdp4Sendmsg,
            A::CgroupUdp6Sendmsg,
            A::CgroupUnixSendmsg,
            A::CgroupUdp4Recvmsg,
            A::CgroupUdp6Recvmsg,
            A::CgroupUnixRecvmsg,
            A::CgroupInet4Getpeername,
            A::CgroupInet6Getpeername,
            A::CgroupUnixGetpeername,
            A::CgroupInet4Getsockname,
            A::CgroupInet6Getsockname,
            A::CgroupUnixGetsockname,
        ],
        Some(ProgType::CgroupSkb) => &[A::CgroupInetIngress, A::CgroupInetEgress],
        Some(ProgType::CgroupSockopt) => &[A::CgroupSetsockopt, A::CgroupGetsockopt],
        Some(ProgType::SkLookup) => &[A::SkLookup],
        Some(ProgType::Netfilter) => &[A::Netfilter],
        Some(ProgType::Syscall | ProgType::Ext) if raw != 0 => return Err(Errno::EINVAL),
        _ => return Ok(()),
    };
    // A socket program without an attach type is one of socket creation.
    let is_default = prog_type == Some(ProgType::CgroupSock) && raw == 0;
    if is_default || allowed.iter().any(|known| known.raw() == raw) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Records as far as they can be read: a length that fits and bytes that do not are the verifier's EFAULT.
fn records(call: &Call<'_>, rec_size: usize, address: usize, count: usize) -> InfoRecords {
    let (rec_size, count) = (call.attr.u32(rec_size), call.attr.u32(count));
    let len = u64::from(rec_size) * u64::from(count);
    let bytes = match usize::try_from(len) {
        Ok(len) if rec_size <= RECORD_BYTES_MAX && len <= RECORDS_BYTES_MAX => {
            read_vec(call.memory, call.attr.u64(address), len).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    InfoRecords {
        rec_size,
        count,
        bytes,
    }
}

/// Reads as much of `fd_array` as the program names, all of it if its length is given.
fn read_fd_array(call: &Call<'_>, prog: &mut ProgAttr) -> Result<(), Errno> {
    let (address, count) = (call.attr.u64(120), call.attr.u32(148));
    if address == 0 && count == 0 {
        return Ok(());
    }
    let named = prog.insns.iter().filter_map(|insn| {
        if insn.is_ld_imm64() && BY_INDEX.contains(&insn.src()) {
            u32::try_from(insn.imm).ok()
        } else if (insn.code, insn.src()) == KFUNC_CALL {
            u32::try_from(insn.off).ok()
        } else {
            None
        }
    });
    let entries = if count != 0 {
        prog.fd_array_is_counted = true;
        count
    } else {
        named.max().map_or(0, |index| index.saturating_add(1))
    };
    if entries > FD_ARRAY_MAX {
        return Err(Errno::EINVAL);
    }
    let bytes = read_vec(call.memory, address, entries as usize * 4)?;
    let fds = bytes.as_chunks::<4>().0.iter();
    prog.fd_array = Some(fds.map(|fd| i32::from_ne_bytes(*fd)).collect());
    Ok(())
}

/// Resolves every number that instructions and `fd_array` may name; what is not open stays unnamed.
fn name_fds(caller: &Caller, prog: &mut ProgAttr) {
    let by_fd = prog
        .insns
        .iter()
        .filter(|insn| insn.is_ld_imm64() && BY_FD.contains(&insn.src()))
        .map(|insn| insn.imm);
    let by_array = prog.fd_array.iter().flatten().copied();
    let numbers: Vec<i32> = by_fd.chain(by_array).collect();
    let mut maps = BTreeMap::new();
    for fd in numbers {
        match caller.named_by_program(fd) {
            Some(Named::Map(map)) => {
                maps.insert(fd, map);
            }
            Some(Named::Btf(btf)) => {
                prog.btf_fds.insert(fd, btf);
            }
            Some(Named::Other) => prog.other_fds.push(fd),
            None => {}
        }
    }
    prog.maps = maps;
}
