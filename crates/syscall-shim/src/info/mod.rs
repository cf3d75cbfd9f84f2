//! BPF_OBJ_GET_INFO_BY_FD: one structure per kind of object, as long as the caller has room, of at most the known size.
//!
//! The caller's structure comes in as well: it says where lists go and how long they may be.

mod prog;

use std::sync::Arc;

use ring3_objects::{BtfObject, LinkDetail, LinkObject, MapObject};
use ring3_uapi::{Errno, limits::OBJ_NAME_BYTES};

use crate::{OpenFile, memory::read_vec, shim::Call};

/// Byte offsets in the attributes.
const BPF_FD: usize = 0;
const INFO_LEN: usize = 4;
const INFO: usize = 8;

/// Bytes of each structure. Source: linux/bpf.h, Linux 6.18.
const MAP_INFO_BYTES: usize = 104;
const BTF_INFO_BYTES: usize = 32;
const LINK_INFO_BYTES: usize = 64;

/// Largest structure a caller may state. Source: one page.
const INFO_BYTES_MAX: usize = 4096;

/// BPF_OBJ_GET_INFO_BY_FD.
pub(crate) fn info(call: &mut Call<'_>) -> Result<i64, Errno> {
    let file = call.caller.file(call.attr.fd(BPF_FD));
    match file.map_err(|_| Errno::EBADFD)? {
        OpenFile::Prog(prog) => {
            let mut info = Info::read(call, prog::PROG_INFO_BYTES)?;
            prog::fill(call, &prog, &mut info)?;
            info.write(call)
        }
        OpenFile::Map(map) => {
            // What is not filled in keeps the caller's bytes.
            let mut info = Info::read(call, MAP_INFO_BYTES)?;
            map_info(map.object(), &mut info);
            info.write(call)
        }
        OpenFile::Btf(btf) => {
            let mut info = Info::read(call, BTF_INFO_BYTES)?;
            btf_info(call, &btf, &mut info)?;
            info.write(call)
        }
        OpenFile::Link(link) => {
            let mut info = Info::read(call, LINK_INFO_BYTES)?;
            let (name, room) = (
                info.u64(LinkDetail::OFFSET),
                info.u32(LinkDetail::OFFSET + 8),
            );
            info.clear();
            let told = link_info(&link, &mut info);
            if let LinkDetail::RawTracepoint { name: own, .. }
            | LinkDetail::Iter { name: own, .. } = &told
            {
                info.put_u64(LinkDetail::OFFSET, name);
                info.put_u32(LinkDetail::OFFSET + 8, own.len() as u32 + 1);
                put_text(call, own, name, room)?;
            }
            info.write(call)
        }
        OpenFile::Iter(_) | OpenFile::Stats(_) | OpenFile::PerfEvent { .. } | OpenFile::Other => {
            Err(Errno::EINVAL)
        }
    }
}

/// A structure under construction: the caller's bytes first, zero-extended.
pub(crate) struct Info {
    bytes: Vec<u8>,
    len: usize,
}

impl Info {
    /// # Errors
    /// E2BIG: more than a page, or bytes behind the known structure that are not zero. EFAULT.
    fn read(call: &Call<'_>, known: usize) -> Result<Info, Errno> {
        let len = call.attr.u32(INFO_LEN) as usize;
        if len > INFO_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        let mut bytes = read_vec(call.memory, call.attr.u64(INFO), len)?;
        if bytes.iter().skip(known).any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        bytes.resize(known, 0);
        Ok(Info {
            bytes,
            len: len.min(known),
        })
    }

    fn clear(&mut self) {
        self.bytes.fill(0);
    }

    fn write(&self, call: &mut Call<'_>) -> Result<i64, Errno> {
        let bytes = self.bytes.get(..self.len).unwrap_or(&self.bytes);
        call.memory.write(call.attr.u64(INFO), bytes)?;
        call.attr.put_u32(INFO_LEN, self.len as u32);
        Ok(0)
    }

    pub(crate) fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_ne_bytes());
    }

    pub(crate) fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    pub(crate) fn put_name(&mut self, at: usize, name: &str) {
        let mut field = [0; OBJ_NAME_BYTES];
        let kept = name.len().min(OBJ_NAME_BYTES - 1);
        field[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        self.put(at, &field);
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| self.bytes[at + i]))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|i| self.bytes[at + i]))
    }
}

fn map_info(object: &Arc<MapObject>, info: &mut Info) {
    let map = object.map();
    let attr = map.attr();
    info.put_u32(0, map.map_type().raw());
    info.put_u32(4, object.id());
    info.put_u32(8, map.key_size());
    info.put_u32(12, map.value_size());
    info.put_u32(16, map.max_entries());
    info.put_u32(20, map.map_flags());
    info.put_name(24, object.name());
    info.put_u32(44, attr.btf_vmlinux_value_type_id);
    if let Some(btf) = object.btf_object() {
        info.put_u32(64, btf.id());
        info.put_u32(68, attr.btf_key_type_id);
        info.put_u32(72, attr.btf_value_type_id);
    }
    info.put_u64(80, attr.map_extra);
}

fn btf_info(call: &mut Call<'_>, object: &Arc<BtfObject>, info: &mut Info) -> Result<(), Errno> {
    let (address, room) = (info.u64(0), info.u32(8) as usize);
    let (name, name_room) = (info.u64(16), info.u32(24));
    let bytes = object.btf().bytes();
    call.memory
        .write(address, &bytes[..bytes.len().min(room)])?;
    info.put_u32(8, bytes.len() as u32);
    info.put_u32(12, object.id());
    info.put_u32(28, u32::from(object.kernel_name().is_some()));
    // BTF of callers has no name; where one is asked for, an empty one is written.
    let own_name = object.kernel_name().unwrap_or_default();
    info.put_u32(24, own_name.len() as u32);
    put_text(call, own_name, name, name_room)
}

/// A text with its NUL to where the caller has room for it, if it asks for it.
///
/// # Errors
/// EINVAL: an address without room or the other way round. ENOSPC: it was cut. EFAULT.
fn put_text(call: &mut Call<'_>, text: &str, address: u64, room: u32) -> Result<(), Errno> {
    if (address != 0) != (room != 0) {
        return Err(Errno::EINVAL);
    }
    if address == 0 {
        return Ok(());
    }
    let mut bytes = text.as_bytes().to_owned();
    let is_cut = bytes.len() >= room as usize;
    bytes.truncate(room as usize - 1);
    bytes.push(0);
    call.memory.write(address, &bytes)?;
    match is_cut {
        true => Err(Errno::ENOSPC),
        false => Ok(()),
    }
}

fn link_info(link: &Arc<LinkObject>, info: &mut Info) -> LinkDetail {
    let told = link.info();
    info.put_u32(0, told.link_type.raw());
    info.put_u32(4, told.id);
    info.put_u32(8, told.prog_id);
    info.put(LinkDetail::OFFSET, &told.detail.to_bytes());
    told.detail
}
