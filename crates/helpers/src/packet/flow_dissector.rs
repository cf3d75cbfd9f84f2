//! `FlowDissection`: a packet and the keys that a flow dissector fills. Its first bytes are the kernel's `struct bpf_flow_dissector`.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/flow_dissector.txt).

use ring3_uapi::Errno;

use super::{
    layout::{bpf_flow_dissector as at, bpf_flow_keys as keys},
    object::Object,
    skb::ETH_HEADER_BYTES,
};
use crate::bind::{AnyCtx, bytes_mut, implement};

/// A packet that has no socket buffer, and what is found out of it.
#[repr(C)]
pub struct FlowDissection {
    object: Object<{ at::BYTES }>,
    keys: Object<{ keys::BYTES }>,
    packet: Vec<u8>,
}

impl FlowDissection {
    /// Bytes of `struct bpf_flow_keys`.
    pub const KEYS_BYTES: usize = keys::BYTES;

    /// An Ethernet frame of 14 to 65535 bytes.
    ///
    /// # Errors
    /// EINVAL: shorter or longer.
    pub fn of(frame: &[u8]) -> Result<Box<FlowDissection>, Errno> {
        if frame.len() < ETH_HEADER_BYTES || frame.len() > usize::from(u16::MAX) {
            return Err(Errno::EINVAL);
        }
        let mut this = Box::new(FlowDissection {
            object: Object::zeroed(),
            keys: Object::zeroed(),
            packet: frame.to_owned(),
        });
        let data = this.packet.as_mut_ptr().expose_provenance() as u64;
        let keys = std::ptr::from_mut(&mut this.keys).expose_provenance() as u64;
        this.object.set_u64(at::FLOW_KEYS, keys);
        this.object.set_u64(at::DATA, data);
        this.object.set_u64(at::DATA_END, data + frame.len() as u64);
        Ok(this)
    }

    /// Makes the keys those that a program is given: both offsets behind the link header, its protocol, and `flags`.
    pub fn begin(&mut self, flags: u32) {
        self.keys.clear();
        self.keys.set_u16(keys::NHOFF, ETH_HEADER_BYTES as u16);
        self.keys.set_u16(keys::THOFF, ETH_HEADER_BYTES as u16);
        let protocol = [self.packet[12], self.packet[13]];
        self.keys.set(keys::N_PROTO, &protocol);
        self.keys.set_u32(keys::FLAGS, flags);
    }

    /// Keeps the offsets that a program left between the link header and the end of the packet.
    pub fn end(&mut self) {
        let end = self.packet.len() as u16;
        let nhoff = self.keys.u16(keys::NHOFF);
        let nhoff = nhoff.clamp(ETH_HEADER_BYTES as u16, end);
        let thoff = self.keys.u16(keys::THOFF).clamp(nhoff, end);
        self.keys.set_u16(keys::NHOFF, nhoff);
        self.keys.set_u16(keys::THOFF, thoff);
    }

    /// The keys.
    pub fn keys(&self) -> &[u8; keys::BYTES] {
        self.keys.bytes()
    }

    /// The pointer that programs get as their context.
    pub fn program_ptr(&mut self) -> u64 {
        std::ptr::from_mut(self).expose_provenance() as u64
    }
}

implement! { VARIANTS:
    // Only what is in a socket buffer is loaded; this packet is in none.
    SkbLoadBytes(_ctx: AnyCtx, _offset: u32, to: *mut u8, len: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        unsafe { bytes_mut(to, len) }.fill(0);
        Err::<(), _>(Errno::EFAULT)
    }
}
