//! BPF_LINK_CREATE, BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_QUERY, BPF_RAW_TRACEPOINT_OPEN: `ring3_net` and `ring3_tracing` have the hooks.

use std::sync::Arc;

use ring3_btf::TypeId;
use ring3_net::{AttachRequest, CallerFds, Net, QueryRequest, Target};
use ring3_objects::{LinkObject, Program};
use ring3_runtime::ProgObject;
use ring3_uapi::{AttachType, Errno, ProgType};

use crate::{
    Caller, OpenFile,
    memory::{read_str, read_vec},
    shim::Call,
};

/// `BPF_F_UPROBE_MULTI_RETURN`
const UPROBE_MULTI_RETURN: u32 = 1;
/// Most places of a multi-uprobe link.
const UPROBES_MAX: u32 = 1 << 20;
/// `union bpf_iter_link_info`, and more bytes than a caller may state for it.
const ITER_INFO_BYTES: usize = 16;
const ITER_INFO_BYTES_MAX: usize = 4096;
/// Bytes of a path, its NUL included.
const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a tracepoint's name that are looked at.
const TRACEPOINT_BYTES_MAX: usize = 127;

impl CallerFds for Caller {
    fn program(&self, fd: u32) -> Result<Arc<Program>, Errno> {
        self.prog(fd as i32)
    }

    fn link(&self, fd: u32) -> Result<Arc<LinkObject>, Errno> {
        Caller::link(self, fd as i32)
    }
}

/// Whether links of an attach type take programs of a type.
fn check_attach_type(prog: &Program, attach_type: AttachType) -> Result<(), Errno> {
    use AttachType as A;
    let fits = match prog.prog_type() {
        ProgType::Xdp => attach_type == A::Xdp,
        ProgType::SchedCls => matches!(
            attach_type,
            A::TcxIngress | A::TcxEgress | A::NetkitPrimary | A::NetkitPeer
        ),
        ProgType::CgroupSkb => {
            matches!(attach_type, A::CgroupInetIngress | A::CgroupInetEgress)
        }
        ProgType::Tracepoint | ProgType::PerfEvent => attach_type == A::PerfEvent,
        ProgType::Kprobe => matches!(
            attach_type,
            A::PerfEvent
                | A::TraceKprobeMulti
                | A::TraceKprobeSession
                | A::TraceUprobeMulti
                | A::TraceUprobeSession
        ),
        // These name their hook when they are loaded.
        _ => {
            let expected = prog.attr().expected_attach_type;
            expected == 0 || expected == attach_type.raw()
        }
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// BPF_LINK_CREATE.
pub(crate) fn link_create(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attr = &call.attr;
    let raw_type = attr.u32(8);
    if raw_type == AttachType::StructOps.raw() {
        call.caller.map(attr.fd(0))?;
        return Err(Errno::ENOTSUPP);
    }
    let prog = call.caller.prog(attr.fd(0))?;
    let attach_type = AttachType::from_raw(raw_type).ok_or(Errno::EINVAL)?;
    check_attach_type(&prog, attach_type)?;
    match attach_type {
        _ if is_traced(&prog) => return tracing_link(call, &prog, attach_type),
        AttachType::TraceIter => return iterator_link(call, &prog),
        AttachType::PerfEvent => return perf_link(call),
        AttachType::TraceUprobeMulti => return uprobe_multi(call),
        _ if !Net::has_hook(attach_type) => return Err(Errno::ENOTSUPP),
        _ => {}
    }
    let mut request = AttachRequest::new(target(call, 4, attach_type)?, attach_type);
    request.flags = attr.u32(12);
    request.relative = attr.u32(16);
    request.expected_revision = attr.u64(24);
    let link = call
        .net
        .link_create(&request, &prog, call.caller)
        .map_err(|error| error.errno)?;
    Ok(i64::from(call.caller.open(OpenFile::Link(link))?))
}

/// Programs that name their function or tracepoint when they are loaded.
fn is_traced(prog: &Program) -> bool {
    match prog.prog_type() {
        ProgType::Ext => true,
        ProgType::Tracing | ProgType::Lsm => !matches!(
            AttachType::from_raw(prog.attr().expected_attach_type),
            Some(AttachType::TraceIter | AttachType::LsmCgroup)
        ),
        _ => false,
    }
}

/// A link to a function, or to the tracepoint that a program was loaded for.
fn tracing_link(
    call: &mut Call<'_>,
    prog: &Arc<Program>,
    attach_type: AttachType,
) -> Result<i64, Errno> {
    let attr = &call.attr;
    let expected = prog.attr().expected_attach_type;
    if prog.prog_type() != ProgType::Ext && attach_type.raw() != expected {
        return Err(Errno::EINVAL);
    }
    let (target_fd, function, cookie) = (attr.fd(4), TypeId(attr.u32(16)), attr.u64(24));
    let is_tracepoint =
        prog.prog_type() == ProgType::Tracing && attach_type == AttachType::TraceRawTp;
    let link = if is_tracepoint {
        call.tracing.link_tracepoint(prog, None, cookie)
    } else if (target_fd == 0) != function.is_void() {
        return Err(Errno::EINVAL);
    } else if target_fd == 0 {
        call.tracing.link(prog, cookie)
    } else if prog.prog_type() != ProgType::Ext {
        return Err(Errno::EINVAL);
    } else {
        let target = call.caller.prog(target_fd)?;
        call.tracing.link_to(prog, &target, function, cookie)
    };
    let link = link.map_err(|error| error.errno)?;
    Ok(i64::from(call.caller.open(OpenFile::Link(link))?))
}

/// A link of an iterator. `iter_info` says what it goes over, where the kind does not.
fn iterator_link(call: &mut Call<'_>, prog: &Arc<Program>) -> Result<i64, Errno> {
    let attr = &call.attr;
    let (info, info_bytes) = (attr.u64(16), attr.u32(24) as usize);
    if attr.fd(4) != 0 || attr.u32(12) != 0 || (info != 0) != (info_bytes != 0) {
        return Err(Errno::EINVAL);
    }
    if info_bytes > ITER_INFO_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    let mut given = read_vec(call.memory, info, info_bytes)?;
    if given.iter().skip(ITER_INFO_BYTES).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    given.resize(ITER_INFO_BYTES, 0);
    let map_fd = i32::from_ne_bytes(std::array::from_fn(|at| given[at]));
    let map = match prog.iterates() {
        Some(target) if target.name == "bpf_map_elem" => {
            if map_fd == 0 {
                return Err(Errno::EBADF);
            }
            Some(call.caller.map(map_fd)?)
        }
        _ => None,
    };
    let map = map.as_ref().map(|file| file.object());
    let link = call.tracing.link_iterator(prog, map);
    let link = link.map_err(|error| error.errno)?;
    Ok(i64::from(call.caller.open(OpenFile::Link(link))?))
}

/// A link to a perf event: descriptors are judged, events have no hooks here.
fn perf_link(call: &Call<'_>) -> Result<i64, Errno> {
    if call.attr.u32(12) != 0 {
        return Err(Errno::EINVAL);
    }
    match call.caller.file(call.attr.fd(4))? {
        OpenFile::PerfEvent { .. } => Err(Errno::ENOTSUPP),
        _ => Err(Errno::EBADF),
    }
}

/// A link to many places of a file: the request is judged, no process is patched here.
fn uprobe_multi(call: &Call<'_>) -> Result<i64, Errno> {
    let (path, offsets, count) = (call.attr.u64(16), call.attr.u64(24), call.attr.u32(48));
    if call.attr.u32(52) & !UPROBE_MULTI_RETURN != 0 || path == 0 || offsets == 0 || count == 0 {
        return Err(Errno::EINVAL);
    }
    if count > UPROBES_MAX {
        return Err(Errno::E2BIG);
    }
    let (path, _) = read_str(call.memory, path, PATH_BYTES_MAX)?;
    if path == b"/" {
        // No file.
        return Err(Errno::EBADF);
    }
    Err(Errno::ENOTSUPP)
}

/// The device of an index, or the cgroup behind a descriptor.
fn target(call: &Call<'_>, at: usize, attach_type: AttachType) -> Result<Target, Errno> {
    if matches!(
        attach_type,
        AttachType::CgroupInetIngress | AttachType::CgroupInetEgress
    ) {
        call.caller.file(call.attr.fd(at))?;
        // Every process is in the root.
        return Ok(Target::Cgroup(Arc::clone(call.net.root_cgroup())));
    }
    Ok(Target::Device(call.attr.u32(at)))
}

/// Flags that BPF_PROG_ATTACH knows for hooks without an order.
fn request(call: &Call<'_>, attach_type: AttachType) -> Result<AttachRequest, Errno> {
    let mut request = AttachRequest::new(target(call, 0, attach_type)?, attach_type);
    request.flags = call.attr.u32(12);
    request.replace_fd = call.attr.u32(16);
    request.relative = call.attr.u32(20);
    request.expected_revision = call.attr.u64(24);
    Ok(request)
}

/// BPF_PROG_ATTACH.
pub(crate) fn prog_attach(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attach_type = AttachType::from_raw(call.attr.u32(8)).ok_or(Errno::EINVAL)?;
    let prog = call.caller.prog(call.attr.fd(4))?;
    if attach_type == AttachType::Xdp {
        return Err(Errno::EINVAL);
    }
    if !Net::has_hook(attach_type) {
        return Err(Errno::ENOTSUPP);
    }
    let request = request(call, attach_type)?;
    call.net
        .prog_attach(&request, &prog, call.caller)
        .map_err(|error| error.errno)?;
    Ok(0)
}

/// BPF_PROG_DETACH.
pub(crate) fn prog_detach(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attach_type = AttachType::from_raw(call.attr.u32(8)).ok_or(Errno::EINVAL)?;
    if attach_type == AttachType::Xdp {
        return Err(Errno::EINVAL);
    }
    if !Net::has_hook(attach_type) {
        return Err(Errno::ENOTSUPP);
    }
    let prog = match call.attr.fd(4) {
        0 => None,
        fd => Some(call.caller.prog(fd)?),
    };
    let request = request(call, attach_type)?;
    call.net
        .prog_detach(&request, prog.as_ref(), call.caller)
        .map_err(|error| error.errno)?;
    Ok(0)
}

/// BPF_PROG_QUERY.
pub(crate) fn prog_query(call: &mut Call<'_>) -> Result<i64, Errno> {
    if !call.caller.privilege().net_admin {
        return Err(Errno::EPERM);
    }
    if call.attr.u32(8) & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let attach_type = AttachType::from_raw(call.attr.u32(4)).ok_or(Errno::EINVAL)?;
    if attach_type == AttachType::Xdp {
        return Err(Errno::EINVAL);
    }
    if !Net::has_hook(attach_type) {
        return query_empty(call, attach_type);
    }
    let (prog_ids, link_ids) = (call.attr.u64(16), call.attr.u64(40));
    let room = call.attr.u32(24);
    let answer = call
        .net
        .prog_query(&QueryRequest {
            target: target(call, 0, attach_type)?,
            attach_type,
            query_flags: call.attr.u32(8),
            attach_flags: call.attr.u32(12),
            room: (prog_ids != 0 && room != 0).then_some(room),
        })
        .map_err(|error| error.errno)?;
    call.attr.put_u32(12, answer.attach_flags);
    call.attr.put_u32(24, answer.count);
    call.attr.put_u32(56, answer.revision as u32);
    call.attr.put_u32(60, (answer.revision >> 32) as u32);
    for (address, ids) in [(prog_ids, &answer.prog_ids), (link_ids, &answer.link_ids)] {
        if address != 0 {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
            call.memory.write(address, &bytes)?;
        }
    }
    match answer.error {
        Some(errno) => Err(errno),
        None => Ok(0),
    }
}

/// A hook of cgroups or network namespaces that nothing can be attached to here: it is empty.
fn query_empty(call: &mut Call<'_>, attach_type: AttachType) -> Result<i64, Errno> {
    use AttachType as A;
    let is_cgroup = attach_type.name().starts_with("cgroup_") || attach_type == A::LsmCgroup;
    if !is_cgroup && !matches!(attach_type, A::FlowDissector | A::SkLookup) {
        return Err(Errno::EINVAL);
    }
    call.caller.file(call.attr.fd(0))?;
    for at in [12, 24] {
        call.attr.put_u32(at, 0);
    }
    Ok(0)
}

/// BPF_RAW_TRACEPOINT_OPEN: a tracepoint by name, or what the program was loaded for.
pub(crate) fn raw_tracepoint_open(call: &mut Call<'_>) -> Result<i64, Errno> {
    let prog = call.caller.prog(call.attr.fd(8))?;
    let (name, cookie) = (call.attr.u64(0), call.attr.u64(16));
    let link = match prog.prog_type() {
        ProgType::Tracing | ProgType::Ext | ProgType::Lsm if name != 0 => Err(Errno::EINVAL)?,
        ProgType::Tracing if prog.attr().expected_attach_type == AttachType::TraceRawTp.raw() => {
            call.tracing.link_tracepoint(&prog, None, cookie)
        }
        ProgType::Tracing | ProgType::Ext | ProgType::Lsm => call.tracing.link(&prog, 0),
        ProgType::RawTracepoint | ProgType::RawTracepointWritable => {
            let (name, _) = read_str(call.memory, name, TRACEPOINT_BYTES_MAX)?;
            let name = String::from_utf8_lossy(&name);
            call.tracing.link_tracepoint(&prog, Some(&name), cookie)
        }
        _ => Err(Errno::EINVAL)?,
    };
    let link = link.map_err(|error| error.errno)?;
    Ok(i64::from(call.caller.open(OpenFile::Link(link))?))
}
