//! BPF_BTF_LOAD.

use ring3_btf::check::{BTF_BYTES_MAX, CheckOptions, check};
use ring3_btf::{DESTRUCTIBLE_6_18, KernelTypes};
use ring3_objects::BtfObject;
use ring3_uapi::{Errno, flags::map_create};

use crate::{OpenFile, log_buf::LogBuf, memory::read_vec, shim::Call};

/// Byte offsets in the attributes.
const BTF: usize = 0;
const LOG_BUF: usize = 8;
const SIZE: usize = 16;
const LOG_SIZE: usize = 20;
const LOG_LEVEL: usize = 24;
const LOG_TRUE_SIZE: usize = 28;
const FLAGS: usize = 32;
const TOKEN_FD: usize = 36;

/// BPF_BTF_LOAD.
pub(crate) fn load(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u32(FLAGS);
    if flags & !map_create::TOKEN_FD != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & map_create::TOKEN_FD != 0 {
        // No command makes a token yet: nothing that is open is one.
        call.caller.file(call.attr.fd(TOKEN_FD))?;
        return Err(Errno::EINVAL);
    }
    if !call.caller.privilege().may_bpf() {
        return Err(Errno::EPERM);
    }
    let size = call.attr.u32(SIZE) as usize;
    if size > BTF_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    let log = LogBuf::new(
        call.attr.u32(LOG_LEVEL),
        call.attr.u32(LOG_SIZE),
        call.attr.u64(LOG_BUF),
    )?;
    let mut text = String::new();
    let checked = read_vec(call.memory, call.attr.u64(BTF), size).and_then(|bytes| {
        let kernel_btf = call.system.kernel_btf();
        let options = CheckOptions {
            base: None,
            kernel: kernel_btf.as_ref().map(|btf| KernelTypes {
                btf,
                destructible: DESTRUCTIBLE_6_18,
            }),
        };
        let sink = log.is_on().then_some(&mut text as &mut dyn std::fmt::Write);
        check(&bytes, options, sink)
    });
    let (true_size, logged) = log.finish(&text, text.len() as u64, call.memory);
    if call.attr.size() >= LOG_TRUE_SIZE + 4 {
        call.attr.put_u32(LOG_TRUE_SIZE, true_size);
    }
    logged?;
    let object = BtfObject::create(call.system, checked?.btf);
    Ok(i64::from(call.caller.open(OpenFile::Btf(object))?))
}
