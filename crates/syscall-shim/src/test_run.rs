//! BPF_PROG_TEST_RUN.

use ring3_net::{LIVE_FRAMES, PacketPath};
use ring3_objects::TestRun;
use ring3_uapi::{Errno, ProgType};

use crate::{Host, memory::read_vec, program_calls, shim::Call};

/// Byte offsets in the attributes.
const PROG_FD: usize = 0;
const RETVAL: usize = 4;
const DATA_SIZE_IN: usize = 8;
const DATA_SIZE_OUT: usize = 12;
const DATA_IN: usize = 16;
const DATA_OUT: usize = 24;
const REPEAT: usize = 32;
const DURATION: usize = 36;
const CTX_SIZE_IN: usize = 40;
const CTX_SIZE_OUT: usize = 44;
const CTX_IN: usize = 48;
const CTX_OUT: usize = 56;
const FLAGS: usize = 64;
const CPU: usize = 68;
const BATCH_SIZE: usize = 72;

/// More bytes than a packet with fragments has.
const DATA_BYTES_MAX: u32 = 1 << 20;
/// More bytes than a context may have. Source: one page.
const CTX_BYTES_MAX: u32 = 4096;
/// More bytes than the context of a syscall program may have.
const PLAIN_CTX_BYTES_MAX: u32 = u16::MAX as u32;

/// Bytes of contexts: what lies behind must be zero. Source: linux/bpf.h.
const XDP_MD_BYTES: usize = 24;
const SK_BUFF_BYTES: usize = 192;

/// BPF_PROG_TEST_RUN.
pub(crate) fn test_run(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attr = &call.attr;
    let (ctx_size, ctx_in) = (attr.u32(CTX_SIZE_IN), attr.u64(CTX_IN));
    let (ctx_room, ctx_out) = (attr.u32(CTX_SIZE_OUT), attr.u64(CTX_OUT));
    if (ctx_size != 0) != (ctx_in != 0) || (ctx_room != 0) != (ctx_out != 0) {
        return Err(Errno::EINVAL);
    }
    let prog = call.caller.prog(attr.fd(PROG_FD))?;
    if !call.system.has_test_run(prog.attr().prog_type) {
        return Err(Errno::ENOTSUPP);
    }
    let data_size = attr.u32(DATA_SIZE_IN);
    if data_size > DATA_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    let prog_type = prog.attr().prog_type;
    let has_plain_ctx = matches!(prog_type, ProgType::Syscall | ProgType::RawTracepoint);
    if has_plain_ctx && ctx_size > PLAIN_CTX_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    let names_data = [DATA_SIZE_IN, DATA_SIZE_OUT].map(|at| attr.u32(at)) != [0; 2]
        || [DATA_IN, DATA_OUT].map(|at| attr.u64(at)) != [0; 2];
    if prog_type == ProgType::SkLookup && names_data {
        return Err(Errno::EINVAL);
    }
    if !has_plain_ctx && ctx_size > CTX_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    let run = TestRun {
        data_in: read_vec(call.memory, attr.u64(DATA_IN), data_size as usize)?,
        ctx_in: read_vec(call.memory, ctx_in, ctx_size as usize)?,
        repeat: attr.u32(REPEAT),
        flags: attr.u32(FLAGS),
        cpu: attr.u32(CPU),
        batch_size: attr.u32(BATCH_SIZE),
        wants_ctx: ctx_out != 0,
        cancel: call.caller.host().map(Host::cancel).unwrap_or_default(),
    };
    let known = match prog_type {
        ProgType::Xdp => XDP_MD_BYTES,
        // Their test runs look themselves, after what is asked first.
        ProgType::FlowDissector | ProgType::SkLookup | ProgType::Netfilter => usize::MAX,
        _ if has_plain_ctx => usize::MAX,
        _ => SK_BUFF_BYTES,
    };
    if run.ctx_in.iter().skip(known).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let result = if prog_type == ProgType::Xdp && run.flags & LIVE_FRAMES != 0 {
        let mut path = PacketPath::new(call.net);
        call.net.run_live(&mut path, &prog, &run)
    } else if prog_type == ProgType::Syscall && program_calls::asks(&prog) {
        program_calls::run(call, &prog, &run)
    } else {
        prog.test_run_with(&run)
    };
    let result = result.map_err(|error| error.errno)?;
    let attr = &call.attr;
    if has_plain_ctx {
        // What a syscall program changed goes back where it came from.
        call.memory.write(ctx_in, &result.ctx_out)?;
        call.attr.put_u32(RETVAL, result.retval);
        return Ok(0);
    }
    let data_room = attr.u32(DATA_SIZE_OUT);
    let data_out = attr.u64(DATA_OUT);
    let mut outcome = Ok(0);
    // Without a stated size everything is written.
    let mut data = result.data_out.as_slice();
    if data_room != 0 && data.len() > data_room as usize {
        data = &data[..data_room as usize];
        outcome = Err(Errno::ENOSPC);
    }
    if data_out != 0 {
        call.memory.write(data_out, data)?;
    }
    call.attr
        .put_u32(DATA_SIZE_OUT, result.data_out.len() as u32);
    call.attr.put_u32(RETVAL, result.retval);
    call.attr.put_u32(DURATION, result.duration_ns);
    if ctx_out != 0 && !result.ctx_out.is_empty() {
        let mut ctx = result.ctx_out.as_slice();
        if ctx.len() > ctx_room as usize {
            ctx = &ctx[..ctx_room as usize];
            outcome = Err(Errno::ENOSPC);
        }
        call.memory.write(ctx_out, ctx)?;
        call.attr.put_u32(CTX_SIZE_OUT, result.ctx_out.len() as u32);
    }
    outcome
}
