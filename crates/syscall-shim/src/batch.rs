//! BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH.
//!
//! Updates and deletes read the caller's arrays element by element: memory that ends early makes the rest fail, after what came before was done, and
//! the count a caller names reserves nothing.

use ring3_maps::{BatchArgs, BatchCmd, BatchStyle};
use ring3_uapi::Errno;

use crate::{memory::read_vec, shim::Call};

/// Byte offsets in the attributes.
const IN_BATCH: usize = 0;
const OUT_BATCH: usize = 8;
const KEYS: usize = 16;
const VALUES: usize = 24;
const COUNT: usize = 32;
const MAP_FD: usize = 36;
const ELEM_FLAGS: usize = 40;
const FLAGS: usize = 48;

/// Bytes of the position of a walk through a hash table.
const WALK_TOKEN_BYTES: usize = 4;

/// BPF_MAP_LOOKUP_BATCH.
pub(crate) fn lookup(call: &mut Call<'_>) -> Result<i64, Errno> {
    read_batch(call, BatchCmd::Lookup)
}

/// BPF_MAP_LOOKUP_AND_DELETE_BATCH.
pub(crate) fn lookup_and_delete(call: &mut Call<'_>) -> Result<i64, Errno> {
    read_batch(call, BatchCmd::LookupAndDelete)
}

/// BPF_MAP_UPDATE_BATCH.
pub(crate) fn update(call: &mut Call<'_>) -> Result<i64, Errno> {
    write_batch(call, BatchCmd::Update)
}

/// BPF_MAP_DELETE_BATCH.
pub(crate) fn delete(call: &mut Call<'_>) -> Result<i64, Errno> {
    write_batch(call, BatchCmd::Delete)
}

fn read_batch(call: &mut Call<'_>, cmd: BatchCmd) -> Result<i64, Errno> {
    let file = call.caller.map(call.attr.fd(MAP_FD))?;
    let map = file.object().map();
    let mut args = BatchArgs {
        in_batch: None,
        keys: &[],
        values: &[],
        count: 0,
        elem_flags: call.attr.u64(ELEM_FLAGS),
        flags: call.attr.u64(FLAGS),
    };
    // What is refused whatever the arrays hold; with a count of 0 that is all.
    map.sys_batch(file.access(), cmd, &args, call.caller).1?;
    args.count = call.attr.u32(COUNT);
    if args.count == 0 {
        return Ok(0);
    }
    call.attr.put_u32(COUNT, 0);
    let token_bytes = match map.ops().batch_style() {
        BatchStyle::Walk { .. } => WALK_TOKEN_BYTES,
        BatchStyle::Generic { .. } | BatchStyle::Unsupported => map.key_size() as usize,
    };
    let in_batch = match call.attr.u64(IN_BATCH) {
        0 => None,
        address => Some(read_vec(call.memory, address, token_bytes)?),
    };
    args.in_batch = in_batch.as_deref();
    let (result, outcome) = map.sys_batch(file.access(), cmd, &args, call.caller);
    // Element by element, as memory that ends early shows.
    let (mut key_at, mut value_at) = (call.attr.u64(KEYS), call.attr.u64(VALUES));
    let keys = result.keys.chunks_exact((map.key_size() as usize).max(1));
    let values = result.values.chunks_exact(map.sys_value_bytes().max(1));
    for (key, value) in keys.zip(values) {
        call.memory.write(key_at, key)?;
        call.memory.write(value_at, value)?;
        key_at = key_at.wrapping_add(key.len() as u64);
        value_at = value_at.wrapping_add(value.len() as u64);
    }
    if let Some(count) = result.count {
        call.attr.put_u32(COUNT, count);
    }
    if let Some(token) = &result.out_batch {
        call.memory.write(call.attr.u64(OUT_BATCH), token)?;
    }
    outcome.map(|()| 0)
}

fn write_batch(call: &mut Call<'_>, cmd: BatchCmd) -> Result<i64, Errno> {
    let file = call.caller.map(call.attr.fd(MAP_FD))?;
    let map = file.object().map();
    let args = BatchArgs {
        in_batch: None,
        keys: &[],
        values: &[],
        count: 0,
        elem_flags: call.attr.u64(ELEM_FLAGS),
        flags: call.attr.u64(FLAGS),
    };
    map.sys_batch(file.access(), cmd, &args, call.caller).1?;
    let count = call.attr.u32(COUNT);
    if count == 0 {
        return Ok(0);
    }
    let key_bytes = map.key_size() as usize;
    let value_bytes = match cmd {
        BatchCmd::Update => map.sys_value_bytes(),
        BatchCmd::Delete | BatchCmd::Lookup | BatchCmd::LookupAndDelete => 0,
    };
    let (mut keys, mut values) = (call.attr.u64(KEYS), call.attr.u64(VALUES));
    let mut done = 0;
    let mut outcome = Ok(0);
    while done < count {
        let elem = read_vec(call.memory, keys, key_bytes)
            .and_then(|key| Ok((key, read_vec(call.memory, values, value_bytes)?)));
        let one = elem.and_then(|(key, value)| {
            let one = BatchArgs {
                in_batch: None,
                keys: &key,
                values: &value,
                count: 1,
                elem_flags: args.elem_flags,
                flags: args.flags,
            };
            map.sys_batch(file.access(), cmd, &one, call.caller).1
        });
        if let Err(errno) = one {
            outcome = Err(errno);
            break;
        }
        done += 1;
        keys = keys.wrapping_add(key_bytes as u64);
        values = values.wrapping_add(value_bytes as u64);
    }
    call.attr.put_u32(COUNT, done);
    outcome
}
